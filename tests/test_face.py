"""The public face: what `import stagetune` gives, as a program, a notebook and other systems use it."""

import doctest
import importlib
import inspect
import logging
import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import stagetune
from stagetune.artifacts import CheckpointMetadata
from stagetune.cli import main
from stagetune.config.validate import validate
from stagetune.errors import ConfigError, DataError, WeightsError
from stagetune.inference.description import Preprocessing, description_of
from stagetune.inference.model import TrainedModel
from stagetune.inference.network import Network
from stagetune.inference.runtimes.pytorch import PyTorch
from stagetune.inference.transform import Transform
from stagetune.run.build import build_task

NAMES = [name for name in stagetune.__all__ if name != "__version__"]
EXAMPLES = Path(__file__).parents[1] / "examples"


def in_new_process(code: str, cwd: Path) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_object_of_its_module(name: str) -> None:
    assert getattr(stagetune, name) is getattr(importlib.import_module(stagetune._FROM[name]), name)
    assert name in dir(stagetune)


def test_a_name_that_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="module 'stagetune' has no attribute 'compos'"):
        stagetune.compos  # type: ignore[attr-defined]  # noqa: B018


def test_importing_it_imports_nothing_else(tmp_path: Path) -> None:
    code = "import sys; before = set(sys.modules); import stagetune; print(sorted(set(sys.modules) - before))"
    found = in_new_process(code, tmp_path)
    assert not {"torch", "lightning", "hydra", "omegaconf", "yaml", "numpy"} & set(eval(found))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_says_what_it_takes_gives_and_raises(name: str) -> None:
    value: Any = getattr(stagetune, name)
    doc = inspect.getdoc(value) or ""
    assert ">>>" in doc
    parts = ("Args:", "Returns:", "Raises:") if inspect.isfunction(value) else ("Attributes:", "Args:")
    if inspect.isfunction(value):
        assert all(part in doc for part in parts)
        taken = [parameter for parameter in inspect.signature(value).parameters if f"{parameter}:" not in doc]
        assert not taken
    else:
        assert any(part in doc for part in parts)


@pytest.mark.slow
def test_the_examples_of_the_face_are_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this order: what `load` takes is what `run_experiment` leaves."""
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    finder = doctest.DocTestFinder(recurse=False)
    for name in sorted(NAMES, key=lambda name: name == "load"):
        value = getattr(stagetune, name)
        examples = finder.find(value, name, globs=dict(vars(importlib.import_module(value.__module__))))
        assert sum(len(example.examples) for example in examples)
        for example in examples:
            runner.run(example)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out


@pytest.mark.slow
def test_a_notebook_composes_plans_trains_plots_and_repeats(tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "first_steps.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs")]  # it is kept without them
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if "image/png" in output.get("data", {})]  # inline: no backend was forced
    printed = "".join(output.get("text", "") for output in outputs)
    assert "schedule staged: 3 stages, 4 epochs" in printed
    assert not [output for output in outputs if output.get("name") == "stderr"]


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_run_leaves_the_process_as_it_was(tmp_path: Path, tiny: Any) -> None:
    """Warnings, loggers, precision of products: a notebook goes on after it."""

    def state() -> list[Any]:
        return [
            warnings.filters[:], logging.getLogger("lightning.pytorch").level,
            torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
            torch.get_rng_state().tolist(), random.getstate(), dict(os.environ),
        ]  # fmt: skip

    torch.set_float32_matmul_precision("medium")
    before = state()
    try:
        stagetune.run_experiment(tiny("+experiment=classifier_staged", stages=1), tmp_path / "run")
        assert state() == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.slow
def test_without_posix_it_is_imported_and_plans(tmp_path: Path) -> None:
    """As on Windows, which has neither of the two modules."""
    code = (
        "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import stagetune; [getattr(stagetune, name) for name in stagetune.__all__]\n"
        "from stagetune.cli import main; main(['plan', 'schedule=head_only', 'model=resnet18'])"
    )
    assert "schedule head_only: 1 stages" in in_new_process(code, tmp_path)


@pytest.mark.slow
def test_a_source_tree_runs_that_is_not_installed(tmp_path: Path) -> None:
    """The version is not asked of metadata that only an installed package has."""
    code = (
        "import importlib.metadata as metadata\n"
        "before = metadata.version\n"
        "def version(name):\n"
        "    if name == 'stagetune': raise metadata.PackageNotFoundError(name)\n"
        "    return before(name)\n"
        "metadata.version = version\n"
        "import torch, stagetune\n"
        "from stagetune.run.environment import environment\n"
        "assert environment(torch.device('cpu'))['versions']['stagetune'] == stagetune.__version__\n"
    )
    in_new_process(code, tmp_path)


def test_what_a_program_gets_wrong_is_said(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'schedule=full seed=1': is one text; give a list of words, \['sch"):
        stagetune.compose("schedule=full seed=1")
    config = tiny("+experiment=classifier_staged")
    config.precision, config.schedule.stages[0].epochs = "fp23", -1
    with pytest.raises(ConfigError) as caught:
        stagetune.run_experiment(config, tmp_path / "run")
    assert caught.value.problems == [
        "schedule.stages[0].epochs=-1: must be at least 1",
        "precision=fp23: no such choice; did you mean fp32?",
    ]
    assert not (tmp_path / "run").exists()


def test_settings_that_are_none_and_numbers_of_numpy(tiny: Any) -> None:
    config = tiny("+experiment=classifier_staged")
    with pytest.raises(AttributeError, match="precison"):
        config.precison = "bf16"
    config.schedule.stages[0].lr, config.schedule.stages[0].epochs = np.float64(1e-3), np.int64(2)
    (stage, *_) = validate(asdict(config)).schedule.stages
    assert (type(stage.lr), type(stage.epochs)) == (float, int)
    config.schedule.stages[0].lr = float("inf")
    with pytest.raises(ConfigError, match="lr=inf: must be a finite number"):
        stagetune.make_plan(config)
    with pytest.raises(TypeError, match="give a schedule and a model, or a configuration alone"):
        stagetune.make_plan(config, torch.nn.Linear(1, 1))


def test_going_on_needs_a_run(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        stagetune.run_experiment(tiny("+experiment=classifier_staged"), tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="resume=: names nothing; give the directory of a run"):
        stagetune.compose(["resume="])
    with pytest.raises(ConfigError, match="'-m': is no override"):
        stagetune.compose(["-m", "seed=1,2"])


def test_a_model_is_pickled(tiny: Any) -> None:
    config = tiny("+experiment=classifier_staged")
    task = build_task(config, config.model.build(32), 10)
    description = description_of(config, CheckpointMetadata(classes=[str(i) for i in range(10)]), None)
    model = TrainedModel(PyTorch(Network(task.backbone, task.head, description.outputs)), description)
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert torch.equal(pickle.loads(pickle.dumps(model))(images), model(images))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"version": 9}, "x.ckpt: has metadata of version 9, this stagetune reads up to 1; update stagetune"),
        ({"version": "1"}, "x.ckpt: holds no metadata of this project; give a run's checkpoints/best.ckpt"),
        ([], "x.ckpt: holds no metadata of this project; give a run's checkpoints/best.ckpt"),
        ({"config": {}}, "x.ckpt: what it says of itself does not fit this version of the project"),
        ({"classes": None}, "x.ckpt: what it says of itself does not fit this version of the project"),
    ],
)
def test_metadata_that_does_not_fit_is_said(metadata: Any, message: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "stagetune": metadata}, tmp_path / "x.ckpt")
    before = torch.get_rng_state()
    with pytest.raises(WeightsError, match=re.escape(message)):
        stagetune.load(tmp_path / "x.ckpt")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_takes_images_and_says_what_is_none(tmp_path: Path) -> None:
    transform = Transform(Preprocessing(16))
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    as_tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    forms = [tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(pixels), pixels, as_tensor]
    assert all(torch.equal(transform(form), transform(pixels)) for form in forms)
    gray = pixels[..., 0]
    assert torch.equal(transform(gray), transform(np.stack([gray] * 3, axis=-1)))
    with pytest.raises(DataError, match=r"ndarray of shape \[20, 30, 3\] and float64: is no image; give a path"):
        transform(pixels / 255)
    (tmp_path / "torn.png").write_bytes((tmp_path / "x.png").read_bytes()[:99])
    with pytest.raises(DataError, match=r"ndarray of shape \[0, 0, 3\] and uint8: is no image"):
        transform(pixels[:0, :0])
    with pytest.raises(DataError, match=r"torn\.png: cannot be read as an image"):
        transform(tmp_path / "torn.png")


@pytest.mark.parametrize("content", [None, b"no checkpoint"])
def test_a_file_that_is_no_checkpoint_is_said(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    if content:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.ckpt: (does not exist|is not a checkpoint).*give a run"):
        stagetune.load(path)


def test_the_command_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"stagetune {stagetune.__version__}\n"
