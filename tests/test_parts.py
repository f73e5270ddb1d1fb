"""Parts bring their own settings: what the chosen ones do not read cannot be given, and all of them run."""

import csv
import os
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import outside
import stagetune
from commands import start
from conftest import TINY
from stagetune.config.compose import compose
from stagetune.config.monitor import monitor_mode
from stagetune.config.parts import PACKAGES, WRAPPERS, names, part, wrappers
from stagetune.config.validate import read_config, validate
from stagetune.data.sources.own import OwnImages
from stagetune.errors import ConfigError, DataError, WeightsError
from stagetune.report.result import read_result
from stagetune.run import run_experiment
from stagetune.run.build import check_targets

ALL = [(group, name) for group in PACKAGES for name in names(PACKAGES[group])]


def settings_of(group: str, name: str) -> set[str]:
    kind: Any = part(group, name)
    return {entry.name for entry in fields(kind)}


def test_no_part_imports_torch() -> None:
    modules = [f"{package}.{name}" for package in (*PACKAGES.values(), WRAPPERS) for name in names(package)]
    code = "import sys, importlib; [importlib.import_module(name) for name in sys.argv[1:]]; "
    code += "assert not {'torch', 'lightning', 'torchvision', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, *modules], check=True)
    assert len(modules) >= 35


@pytest.mark.parametrize(("group", "name"), ALL, ids=lambda value: value)
def test_a_setting_that_a_part_does_not_read_cannot_be_given_to_it(group: str, name: str) -> None:
    """Every setting of all others; those of one's own stand in its target, where they are checked."""
    every = set().union(*(settings_of(group, other) for other in names(PACKAGES[group])))
    foreign = sorted(every - settings_of(group, name) - {"target"})  # which is written as _target_
    if name == "own" and group != "model":
        foreign = []
    values: dict[str, Any] = {group: {"name": name, **dict.fromkeys(foreign, 1)}}
    try:
        validate({**values, "schedule": {"stages": [{"name": "a", "open": ["head"], "lr": 1}]}})
        problems = []
    except ConfigError as error:
        problems = error.problems
    for key in foreign:
        (said,) = [problem for problem in problems if problem.startswith(f"{group}.{key}: ")]
        assert f"{group}={name} does not read it, {group}=" in said
    assert not [problem for problem in problems if "does not read" in problem and ": " not in problem]


@pytest.mark.parametrize(
    "wrapper", [kind for kind in wrappers() if kind.needs_identities], ids=lambda kind: kind.__module__
)
def test_a_wrapper_that_needs_identities_is_no_setting_of_pairs(wrapper: Any) -> None:
    own = {entry.name for entry in fields(wrapper)}
    assert own <= settings_of("data", "image_folder")
    assert not own & (settings_of("data", "pairs") | settings_of("data", "lfw"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["task=siamese", "loss=bce", "loss.margin=3"],
            "loss.margin: loss=bce does not read it, loss=arcface, contrastive, proxy_anchor, triplet do",
        ),
        (
            ["task=siamese", "loss=contrastive", "loss.mining=semi_hard"],
            "loss.mining: loss=contrastive does not read it, loss=triplet does; did you mean loss.margin?",
        ),
        (["task.embedding=64"], "task.embedding: task=classifier does not read it, task=siamese does"),
        (
            ["data.on_error=skip"],
            "data.on_error: data=digits does not read it, data=cub, hf, identity_csv, image_folder, lfw, omniglot, "
            "pairs, sop, torchvision do",
        ),
        (["task.hidden=64"], "task.hidden=64: has no effect with task.head=linear; add task.head=hidden"),
        (
            ["+experiment=siamese_unseen", "data=digits"],
            "data.groups: data=digits does not read it, data=glyphs, omniglot do; leave it out with ~data.groups",
        ),
        (
            ["lr=0.1"],
            "lr: no such key or group; every stage has its own, write schedule.stages.0.lr=0.1 for the first",
        ),
        (
            ["epochs=3"],
            "epochs: no such key or group; every stage has its own, write schedule.stages.0.epochs=3 for the first",
        ),
        (["batch_size=8"], "batch_size: no such key or group; write data.batch_size=8"),
        (["min_seconds=8"], "min_seconds: no such key or group; write checkpoint.min_seconds=8"),
        (
            ["loss=poly"],
            "loss=poly: no such loss; valid: arcface, bce, contrastive, cross_entropy, focal, multi_similarity, "
            "nt_xent, own, proxy_anchor, supcon, triplet. One of your own or of a library goes in as "
            "loss._target_=package.Loss",
        ),
        (
            ["data.augment=augmix"],
            "data.augment=augmix: no such choice; valid: none, affine, strong_affine, crop_flip, randaugment, "
            "trivialaugment. Any other goes in as data.transform._target_=torchvision.transforms.v2.AugMix",
        ),
        (["model=convnext_tny"], "model=convnext_tny: no such model; did you mean convnext_tiny?"),
        (
            ["model.arch=convnext_tiny"],
            "model.arch=convnext_tiny: no such choice; it is of another family, choose model=convnext_tiny",
        ),
        (["model.mean=[0.5]"], "model.mean=[0.5]: expects three numbers between 0 and 1, one per channel"),
        (["model.head=keep"], "model.head=keep: keeps the head of a run; name it, model.weights=outputs/..."),
        (
            ["metrics.accuracy._target_=torchmetrics.Accuracy"],
            "metrics.accuracy: classifier measures a val/accuracy already; give yours another name",
        ),
        (
            ["callbacks.x.patience=3"],
            "callbacks.x._target_: is missing; name a class, +callbacks.x._target_=package.Class",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_person_meant_is_said(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(words)
    assert expected in caught.value.problems


def test_an_own_part_takes_what_is_not_ours_as_its_arguments_and_nothing_of_the_option_it_replaces() -> None:
    config = compose(
        [
            "data._target_=outside.Shapes",
            "data.count=9",
            "data.size=20",
            "data.batch_size=8",
            "loss._target_=outside.Focal",
        ]
    )
    assert config.data.name == config.loss.name == "own"
    assert asdict(config.data)["target"] == {"_target_": "outside.Shapes", "count": 9, "size": 20}
    assert (config.data.batch_size, config.data.image_size, config.data.augment) == (8, None, "crop_flip")
    assert asdict(validate(asdict(config))) == asdict(config)
    check_targets(config)


def test_an_option_and_a_part_of_ones_own_are_one_too_many() -> None:
    with pytest.raises(ConfigError, match=r"model=timm and model\._target_: both choose a model; leave one of"):
        compose(["model=timm", "model._target_=networks.Net", "model.blocks=[stem]"])
    assert compose(["loss=own", "loss._target_=outside.Focal"]).loss.name == "own"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["loss._target_=outside.Focall"],
            "loss._target_=outside.Focall: cannot be imported; did you mean outside.Focal?",
        ),
        (
            ["loss._target_=outside.Focal", "loss.gama=1"],
            "loss.gama: is no argument of Focal; did you mean loss.gamma?",
        ),
        (["data._target_=outside.Shapes"], "data: lacks count: Shapes(count, size=32, pil=False)"),
        (
            ["data.transform._target_=outside.Speckle", "data.transform.shar=1"],
            "data.transform.shar: is no argument of Speckle; did you mean data.transform.share?",
        ),
        (
            ["callbacks.d._target_=outside.Diary", "callbacks.d.prefx=a"],
            "callbacks.d.prefx: is no argument of Diary; did you mean callbacks.d.prefix?",
        ),
        (
            ["task=siamese", "data=pairs", f"data.pairs={__file__}", "loss._target_=outside.Cosine", "loss.margin=1"],
            "loss._target_=outside.Cosine: has no of_pairs(distance, is_same), which data=pairs needs; add one, or "
            "use loss=contrastive",
        ),
        (
            ["model._target_=outside.Gone", "model.blocks=[a,b]", "schedule=full"],
            "model.network._target_=outside.Gone: cannot be imported; did you mean outside.Cosine?",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_an_own_part_cannot_be_told_is_said_before_anything_is_built(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_targets(compose(words))
    assert any(problem.startswith(expected) for problem in caught.value.problems), caught.value.problems


class Items:
    """A data set of the items that it is given."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def test_an_own_data_set_gives_images_of_any_kind_and_names_its_classes() -> None:
    gray = np.arange(48, dtype=np.uint8).reshape(6, 8)
    items = [(Image.fromarray(gray), 7), (gray, 3), {"image": torch.from_numpy(gray)[None], "label": torch.tensor(7)}]
    source = OwnImages(Items(items), "a.Items")
    assert all(torch.equal(source.image(i), source.image(0)) for i in range(3))
    assert source.contents[0] == source.contents[1] == source.contents[2]
    assert (source.classes, source.labels.tolist()) == (["3", "7"], [1, 0, 1])
    named = OwnImages(Items([(gray, "b"), (gray + 1, "a")]), "a.Items")
    assert (named.classes, named.labels.tolist(), named.describe(1)) == (["a", "b"], [1, 0], "Items[1]")
    shapes = OwnImages(outside.Shapes(2), "outside.Shapes")
    assert (shapes.classes, shapes.labels.tolist()) == (["square", "disc", "cross"], [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (iter([]), "is no map-style dataset; it needs __len__ and __getitem__"),
        (Items([]), "is empty"),
        (
            Items([(torch.rand(3, 4, 4), 0)]),
            r"item 0 has a Tensor \[3, 4, 4\] of torch.float32 as its image; give a PIL",
        ),
        (
            Items([(np.zeros((4, 4), np.uint8), [1, 2])]),
            r"item 0 has \[1, 2\] as its label; give a whole number or a name",
        ),
        (Items([1]), "item 0: TypeError: cannot unpack non-iterable int object"),
    ],
)
def test_an_own_data_set_that_is_none_is_said(dataset: Any, expected: str) -> None:
    with pytest.raises(DataError, match=rf"^data\._target_=a\.B: {expected}"):
        OwnImages(dataset, "a.B")


def test_an_own_data_set_that_augments_by_itself_is_refused() -> None:
    class Noise(Items):
        def __getitem__(self, index: int) -> Any:
            return torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8), index % 2

    with pytest.raises(DataError, match="gives another image when it is asked for one again; leave augmentation to"):
        OwnImages(Noise([0] * 4), "a.Noise")


def test_a_configuration_of_an_earlier_version_is_read() -> None:
    """There every group had every setting of every option, and no family."""
    now = asdict(compose(["task=siamese", "loss=triplet", "model=resnet18"]))
    before = {**now, "model": {key: value for key, value in now["model"].items() if key != "name"}}
    before["model"] |= {"network": None, "blocks": None}
    before["loss"] = {**now["loss"], "temperature": 0.1, "scale": 32.0, "label_smoothing": 0.0}
    before["data"] = {**now["data"], "root": None, "csv": None, "on_error": "raise", "groups": None}
    before["task"] = {**now["task"], "head": "linear"}
    assert asdict(read_config(before)) == now


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Digits as files: root/<digit>/<n>.png, table.csv of them, and pairs.csv."""
    bunch = load_digits()
    rows, pairs = ["path,identity"], ["a,b,is_same"]
    for digit in range(4):
        (tmp_path / "root" / str(digit)).mkdir(parents=True)
        for i, pixels in enumerate(bunch.images[bunch.target == digit][:16]):
            name = f"root/{digit}/{i}.png"
            Image.fromarray((pixels * 15).astype(np.uint8)).save(tmp_path / name)
            rows.append(f"{name},{digit}")
            if i % 4:
                pairs.append(f"{name},root/{digit}/{i - 1}.png,1")
            if digit:
                pairs.append(f"{name},root/{digit - 1}/{i}.png,0")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    (tmp_path / "pairs.csv").write_text("\n".join(pairs))
    return tmp_path


HEAVY = ("convnext_tiny", "swin_t", "vit_b_32", "vgg11")  # of which only the head is trained here, to save seconds
RUNS = {  # together every loss, source, wrapper, task and family of backbones that needs nothing from elsewhere
    "classifier": ["loss=cross_entropy", "task.head=hidden", "model=resnet18", "data=image_folder", "data.root=root"],
    "contrastive": ["task=siamese", "loss=contrastive", "model=mobilenet_v3_small", "data=digits",
                    "task.on_collapse=go_on"],
    "bce": ["task=siamese", "loss=bce", "model=efficientnet_b0", "task.on_collapse=go_on",
            "data=pairs", "data.pairs=pairs.csv", "data.val=0.3",
            "data.test=0.3", "data.centred=true"],
    "triplet": ["task=siamese", "loss=triplet", "model=regnet_y_400mf", "data=identity_csv", "data.csv=table.csv"],
    "supcon": ["task=siamese", "loss=supcon", "model=convnext_tiny", "data=glyphs", "data.groups=[greek]",
               "data.turned=true"],
    "nt_xent": ["task=siamese", "loss=nt_xent", "model=densenet121", "data=image_folder", "data.root=root"],
    "multi_similarity": ["task=siamese", "loss=multi_similarity", "model=swin_t", "data=image_folder",
                         "data.root=root"],
    "arcface": ["task=siamese", "loss=arcface", "task.batches=uniform", "model=vit_b_32", "data=image_folder",
                "data.root=root", "data.centred=true", "data.spliced=1"],
    "proxy_anchor": ["task=siamese", "loss=proxy_anchor", "model=vgg11", "data=image_folder", "data.root=root"],
    "timm": ["model=timm", "model.arch=test_convnext", "data=digits"],
    "focal": ["loss=focal", "loss.class_weights=balanced", "model=efficientnet_lite0", "data=digits"],
    "own": ["loss._target_=outside.Focal", "data._target_=outside.Shapes", "data.count=24", "data.pil=true",
            "model._target_=networks.Net", "model.blocks=[stem,layer2,layer3,layer4]", "model.mean=[0.5,0.5,0.5]",
            "data.transform._target_=outside.Speckle", "data.transform.share=0.1"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("name", RUNS)
def test_every_part_trains(name: str, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    small = [word for word in TINY if not word.startswith(("model=", "schedule."))]
    words = [
        *small,
        *RUNS[name],
        "data.batch_size=16",
        "data.num_workers=0",
    ]
    schedule = "head_only" if any(f"model={heavy}" in words for heavy in HEAVY) else "lp_ft"
    config = compose([*words, f"schedule={schedule}"])
    config.trainer["limit_train_batches"] = 2
    for stage in config.schedule.stages:
        stage.epochs = 1
    run_experiment(config, "run")
    result = read_result(Path("run"))
    assert result.status == "completed"
    assert [stage["steps"] for stage in result.stages] == [2] * len(config.schedule.stages)
    monkeypatch.setitem(sys.modules, "outside", None)  # a model needs neither the loss nor the data it was trained by
    model = stagetune.load("run", trust=True)
    outputs = model(torch.stack([model.transform("root/1/1.png")] * 2))
    assert outputs.isfinite().all()


@pytest.mark.slow
def test_every_part_is_among_those_that_train() -> None:
    words = {word for run in RUNS.values() for word in run}
    known = {compose([f"model={word.partition('=')[2]}"]).model.name for word in words if word.startswith("model=")}
    assert known | {"own"} == set(names(PACKAGES["model"]))
    losses = {word.partition("=")[2] for word in words if word.startswith("loss=")}
    assert losses | {"own"} == set(names(PACKAGES["loss"]))
    sources = {word.partition("=")[2] for word in words if word.startswith("data=")}
    elsewhere = {"lfw", "omniglot"} | {"cub", "hf", "sop", "torchvision"}  # test_known_sets.py, test_named_data.py
    assert sources | {"own"} | elsewhere == set(names(PACKAGES["data"]))
    keys = {word.partition("=")[0] for word in words}
    assert all(f"data.{entry.name}" in keys for kind in wrappers() for entry in fields(kind))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_run_goes_on_from_the_head_of_another(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(images)
    small = [word for word in TINY if not word.startswith("schedule.")]
    words = [*small, "data=image_folder", "data.root=root", "data.num_workers=0", "schedule=head_only"]
    run_experiment([*words, "schedule.stages.0.epochs=2"], "first")
    first = torch.load("first/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    warm = ["model.weights=first", "model.head=keep", "schedule.stages.0.epochs=1", "schedule.stages.0.lr=1e-12"]
    result = run_experiment([*words, *warm], "second")
    second = torch.load("second/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for name in ("head.weight", "backbone.layer4.1.conv2.weight"):
        torch.testing.assert_close(second[name], first[name])
    assert result.weights["used"] == "first, with its head"
    with pytest.raises(
        WeightsError, match=r"trained with model\.mean=\[0\.485, .*, here it is \[0\.5, 0\.5, 0\.5\]; add"
    ):
        run_experiment([*words, *warm, "model.mean=[0.5,0.5,0.5]"], "other")
    (images / "root" / "3").rename(images / "root" / "x")
    with pytest.raises(WeightsError, match="class 3 is 3 there and x here; give the data of that run"):
        run_experiment([*words, *warm], "third")


@pytest.mark.parametrize(
    ("words", "best", "stages"),
    [
        ([], "max", ("val/accuracy", "max")),
        (["task.monitor=val/loss"], "min", ("val/loss", "min")),
        (["task.mode=min"], "min", ("val/accuracy", "min")),
        (["metrics.acc._target_=outside.Errors", "task.monitor=val/acc"], "min", ("val/acc", "min")),
        (["metrics.m._target_=outside.Errors", "task.monitor=val/m", "+schedule.mode=max"], "max", ("val/m", "max")),
        (
            ["metrics.m._target_=outside.Errors", "task.monitor=val/m", "+schedule.monitor=val/accuracy"],
            "min",
            ("val/accuracy", "max"),
        ),
    ],
    ids=" ".join,
)
def test_a_metric_has_one_direction_for_the_best_checkpoint_and_for_the_stages(
    words: list[str], best: str, stages: tuple[str, str]
) -> None:
    config = compose([*words, "schedule=plateau", "model=resnet18"])
    assert monitor_mode(config) == best
    assert {(stage.monitor, stage.mode) for stage in stagetune.make_plan(config).stages} == {stages}


def test_what_is_monitored_may_be_changed_after_composing() -> None:
    config = compose(["schedule=plateau", "model=resnet18"])
    config.task.monitor = "val/loss"
    (watched,) = {(stage.monitor, stage.mode) for stage in stagetune.make_plan(config).stages}
    assert watched == ("val/loss", "min")


def test_a_metric_that_does_not_say_which_values_are_good_is_asked_for() -> None:
    words = ["task=siamese", "loss=bce", "metrics.m._target_=outside.Pairs", "task.monitor=val/m"]
    with pytest.raises(ConfigError, match=r"task\.monitor=val/m: is a high one good\? say task\.mode=max, or min"):
        compose(words)
    assert monitor_mode(compose([*words, "task.mode=min"])) == "min"


def test_two_directions_of_one_metric_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task\.mode=min and schedule\.mode=max: are of one metric; leave one"):
        compose(["task.mode=min", "+schedule.mode=max"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["torch.nn.MSELoss"], r"cannot take outputs \[4, 10\] and classes \[4\]: RuntimeError"),
        (
            ["torch.nn.CrossEntropyLoss", "loss.reduction=none"],
            r"gives a tensor \[4\] for outputs .*; it must give one",
        ),
        (["torch.nn.ReLU"], r"cannot take .*: TypeError"),
        (["outside.Diary"], r"gives a Diary, which is no torch\.nn\.Module"),
        (["outside.Sharpness"], r"cannot take .* without gradients, as in validation: RuntimeError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_own_loss_is_tried_before_anything_is_trained(words: list[str], message: str) -> None:
    before = torch.get_rng_state()
    with pytest.raises(ConfigError, match=rf"loss\._target_=\S+: {message}"):
        compose([f"loss._target_={words[0]}", *words[1:]]).loss.build(10, 10)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_the_loss_of_an_epoch_is_that_of_its_images_however_steps_are_made(tmp_path: Path) -> None:
    """Lightning divides what it hands on by the batches of a step."""
    losses = []
    for accumulation in ("x1", "x2"):
        words = [*TINY, "schedule=head_only", "schedule.stages.0.lr=1e-12", f"accumulation={accumulation}"]
        words = [word for word in words if "stages.1" not in word and "stages.2" not in word]
        run_experiment(words, tmp_path / accumulation)
        losses.append(next(csv.DictReader((tmp_path / accumulation / "metrics.csv").open()))["train/loss"])
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)


@pytest.mark.slow
def test_a_sweep_over_an_own_loss_is_told_its_winner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with -m in front, as the documentation writes it."""
    tests = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", str(tests), prepend=os.pathsep)

    def done(*words: str) -> str:
        process = start(*words, cwd=tmp_path)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        return out

    small = [word for word in TINY if "stages" not in word]
    words = ["-m", *small, "schedule=head_only", "schedule.stages.0.epochs=1", "loss._target_=outside.Focal"]
    done(str(tests.parent / "train.py"), *words, "loss.gamma=0.5,2", "sweep.name=a")
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    best = done("-m", "stagetune", "best", "outputs/sweeps/a")
    (tmp_path / "conf" / "experiment" / "best.yaml").write_text(best)
    done("-m", "stagetune", "plan", "+experiment=best")
