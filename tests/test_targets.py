"""What a configuration names by `_target_` is checked before anything is built, then built, nested ones first."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from stagetune.errors import ConfigError
from stagetune.targets import build, check_target, fingerprint

V2 = "torchvision.transforms.v2"


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("outside.Cosin", "cannot be imported; did you mean outside.Cosine?"),
        ("outsid.Cosine", "cannot be imported; there is no module outsid; did you mean outside?"),
        ("torch.optm.SGD", "cannot be imported; did you mean torch.optim?"),
        ("qwz.Loss", "cannot be imported; there is no module qwz; install it, or put its folder on PYTHONPATH"),
        ("outside/loss.py", "cannot be imported; it is no dotted name, as my_package.MyClass"),
        ("torch.float32", "is not a class or function"),
    ],
)
def test_what_is_not_there_is_said_with_the_nearest_name(target: str, problem: str) -> None:
    assert check_target("loss", {"_target_": target}) == [f"loss._target_={target}: {problem}"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"margn": 1, "margin": 1}, "loss.margn: is no argument of Cosine; did you mean loss.margin?"),
        ({}, "loss: lacks margin: Cosine(margin)"),
        ({"_target_": "outside.Speckle", "by": "numpy"}, "loss: lacks share: Speckle(share, by='torch')"),
        ({"_args_": [1], "margin": 1}, "loss.margin: is given by position already, to Cosine(margin)"),
        ({"_args_": [1, 2]}, "loss._args_: are too many for Cosine(margin)"),
        ({"_args_": 1}, "loss._args_: expects a list, got 1"),
        (
            {"margin": 1, "_convert_": "all"},
            "loss._convert_: is not known here; of such words _target_, _args_, _partial_ are",
        ),
        (
            {"margin": [{"_target_": f"{V2}.RandomErasing", "scal": 1}]},
            "loss.margin[0].scal: is no argument of RandomErasing; did you mean loss.margin[0].scale?",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_one_sentence(arguments: dict[str, Any], problem: str) -> None:
    assert check_target("loss", {"_target_": "outside.Cosine", **arguments}) == [problem]


@pytest.mark.parametrize("settings", [{"margin": 1}, 3, None])
def test_what_names_nothing_is_refused(settings: Any) -> None:
    (problem,) = check_target("loss", settings)
    assert problem == "loss._target_: is missing; name a class or function, loss._target_=my_package.MyClass"


@pytest.mark.parametrize(
    ("source", "failure"),
    [
        ("x = 1\ny = x + z\n", "own_part.py, line 2: NameError: name 'z' is not defined"),
        ("x = 1\n\nimport gone\n", "own_part.py, line 3: ModuleNotFoundError: No module named 'gone'"),
        ("class Loss\n    pass\n", "own_part.py, line 1: SyntaxError: expected ':'"),
        ("def __getattr__(name):\n    raise OSError('gone')\n", "own_part.py, line 2: OSError: gone"),
        ("import sys\nsys.exit('used as a program')\n", "own_part.py, line 2: SystemExit: used as a program"),
    ],
)
def test_a_module_of_ones_own_that_fails_is_said_as_its_error(
    source: str, failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_part.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_part", raising=False)
    (problem,) = check_target("loss", {"_target_": "own_part.Loss"})
    assert problem == f"loss._target_=own_part.Loss: {tmp_path}/{failure}"


def test_what_is_supplied_need_not_be_given_and_goes_where_it_is_asked_for() -> None:
    metric = {"_target_": "outside.Surprise", "base": 10.0}
    assert check_target("m", metric) == ["m: lacks num_classes: Surprise(num_classes, base=2.0)"]
    assert check_target("m", metric, {"num_classes", "task"}) == []
    assert build(metric, num_classes=3, task="multiclass")().num_classes == 3
    assert build({**metric, "num_classes": 5}, num_classes=3)().num_classes == 5  # what is given stays
    wrapped = {"_target_": "torchmetrics.MinMaxMetric", "base_metric": metric}
    assert check_target("m", wrapped, {"num_classes"}) == []
    assert build(wrapped, num_classes=4)()._base_metric.num_classes == 4


def test_what_stands_before_all_others_is_given_by_position() -> None:
    settings = {"_target_": "torch.optim.AdamW", "weight_decay": 0.5}
    (problem,) = check_target("optimizer", settings)
    assert problem.startswith("optimizer: lacks params: AdamW(params, lr=0.001, ")
    assert check_target("optimizer", settings, positional=1) == []
    for more in ({}, {"_partial_": True}):  # as Hydra's users write it
        optimizer = build({**settings, **more}, lr=0.25)([torch.nn.Parameter(torch.zeros(1))])
        assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.25, 0.5)


def test_what_is_named_within_is_built_first() -> None:
    settings = {
        "_target_": f"{V2}.Compose",
        "transforms": [
            {"_target_": f"{V2}.RandomApply", "transforms": [{"_target_": f"{V2}.GaussianBlur", "_args_": [3]}]},
            {"_target_": "outside.with_pillow", "_partial_": True, "strength": 0.1},
        ],
    }
    assert check_target("data.transform", settings) == []
    compose = build(settings)()
    first, second = compose.transforms
    assert isinstance(compose, v2.Compose)
    assert list(first.transforms[0].kernel_size) == [3, 3]
    assert isinstance(second, partial)
    assert second.keywords == {"strength": 0.1}


def test_what_a_constructor_refuses_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        build({"_target_": f"{V2}.RandomErasing", "p": 2.0})()
    assert caught.value.problems == [
        f"{V2}.RandomErasing: ValueError: `p` should be a floating point value in the interval [0.0, 1.0]."
    ]


def test_a_fingerprint_knows_settings_and_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own_source.py"
    file.write_text("def once(image):\n    return image\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    within = {"_target_": f"{V2}.Compose", "transforms": [{"_target_": "own_source.once", "_partial_": True}]}
    before = fingerprint(within)
    assert before == fingerprint(within)
    assert before != fingerprint({**within, "transforms": [*within["transforms"], *within["transforms"]]})
    file.write_text("def once(image):\n    return 255 - image\n")
    assert before != fingerprint(within)
