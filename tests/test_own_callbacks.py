"""Lightning callbacks of the user's own in a run: they hear of stages, go on where they stopped, and write in it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from outside import Diary
from stagetune.artifacts import RunDir
from stagetune.config.schema import Config
from stagetune.errors import ConfigError, ScheduleError, TrainingError
from stagetune.inference.load import load
from stagetune.run.callbacks import own_callbacks
from stagetune.run.checkpoints import AtomicCheckpoints
from stagetune.run.experiment import run_experiment

CLASSIFIER = "+experiment=classifier_staged"
LIGHTNING = "lightning.pytorch.callbacks"


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_they_hear_of_stages_and_are_in_checkpoints_and_go_on_from_there(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "+callbacks.diary={_target_: outside.Diary, prefix: 'stage '}",
        f"+callbacks.kept={{_target_: {LIGHTNING}.ModelCheckpoint, monitor: val/loss, save_last: true}}",
        f"+callbacks.early={{_target_: {LIGHTNING}.EarlyStopping, monitor: val/loss, patience: 9}}",
        "checkpoint.min_seconds=0",
    )
    config = tiny(CLASSIFIER, *words, stages=2)
    run_experiment(config, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    last = torch.load(run.last, weights_only=True)
    expected = [
        "stage head begins before step 0",
        "stage head ends after step 4",
        "stage layer4 begins before step 4",
        "stage layer4 ends after step 8",
    ]
    assert last["callbacks"]["Diary"] == {"lines": expected}
    # theirs lie apart from ours, which they do not replace, and nowhere else
    assert files_in(run.checkpoints) == {"best.ckpt", "last.ckpt"}
    kept = files_in(run.callbacks)
    assert "kept/last.ckpt" in kept
    assert len(kept) == 2
    assert files_in(tmp_path) == {f"run/{name}" for name in files_in(run.path)}
    assert load(run.callbacks / "kept" / "last.ckpt").classes == load(run.best).classes

    # a second run is cut after its first stage
    class Cut(Exception):
        pass

    def cut(self: Diary, trainer: Any, pl_module: Any, stage: Any) -> None:
        if stage.name == "layer4":
            raise Cut
        honest(self, trainer, pl_module, stage)

    honest = Diary.on_stage_start
    with monkeypatch.context() as patch:
        patch.setattr(Diary, "on_stage_start", cut)
        with pytest.raises(Cut):
            run_experiment(config, tmp_path / "cut")
    run_experiment([f"resume={tmp_path / 'cut'}", "callbacks.diary._target_=outside.Diary"])  # it is no known class
    again = torch.load(RunDir(tmp_path / "cut").last, weights_only=True)
    assert again["callbacks"]["Diary"] == {"lines": expected}
    for kind, score in (("EarlyStopping", "best_score"), ("ModelCheckpoint", "best_model_score")):
        ours, whole = (
            next(state for key, state in checkpoint["callbacks"].items() if key.startswith(kind))
            for checkpoint in (again, last)
        )
        assert float(ours[score]) == float(whole[score]), kind
    assert len(files_in(tmp_path / "cut" / "callbacks")) == 2  # the first stage's best is known, and replaced


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_early_stopping_ends_the_run_which_is_tested_all_the_same(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    stop = f"{{_target_: {LIGHTNING}.EarlyStopping, monitor: val/accuracy, mode: max, stopping_threshold: 0.0}}"
    config = tiny(CLASSIFIER, f"+callbacks.stop={stop}", stages=2)
    config.schedule.stages[0].epochs = 5
    result = run_experiment(config, tmp_path)
    assert (result.status, [stage["epochs"] for stage in result.stages]) == ("completed", [1])
    assert "test/accuracy" in result.test


def test_what_does_not_go_with_stages_stays_refused_by_name(tiny: Callable[..., Config], tmp_path: Path) -> None:
    swa = f"{{_target_: {LIGHTNING}.StochasticWeightAveraging, swa_lrs: 0.1}}"
    with pytest.raises(ScheduleError, match=r"StochasticWeightAveraging sets rates of its own and"):
        run_experiment(tiny(CLASSIFIER, f"+callbacks.swa={swa}", stages=1), tmp_path)


def test_mistakes_are_found_before_anything_is_built(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(CLASSIFIER, "+callbacks.a={_target_: outside.Diary, prefx: x}")
    config.callbacks |= {"../c": {"_target_": "outside.Diary"}}
    with pytest.raises(ConfigError) as caught:
        run_experiment(config, tmp_path)
    assert caught.value.problems == [
        "callbacks.a.prefx: is no argument of Diary; did you mean callbacks.a.prefix?",
        "callbacks.../c: cannot be a name; use letters, digits and _",
    ]
    config.callbacks |= {"b": {"prefix": "x"}}
    with pytest.raises(
        ConfigError, match=r"callbacks\.b\._target_: is missing; name a class, \+callbacks\.b\._target_="
    ):
        run_experiment(config, tmp_path)
    config.callbacks |= {"d": 3}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"callbacks\.d: expects keys and values, got 3"):
        run_experiment(config, tmp_path)


def test_what_is_no_callback_or_cannot_be_restored_is_refused() -> None:
    diary = {"_target_": "outside.Diary"}
    with pytest.raises(ConfigError) as caught:
        own_callbacks({"a": diary, "b": {"_target_": "outside.Focal"}, "c": diary}, RunDir("run"))
    assert caught.value.problems == [
        "callbacks.b._target_=outside.Focal: gives Focal, which is no lightning.pytorch.Callback; derive it from "
        "that",
        "callbacks.c and callbacks.a: keep their state under one name in a checkpoint, Diary; leave one out, or give "
        "the class a state_key that tells them apart",
    ]


def test_a_place_that_is_said_is_kept(tmp_path: Path) -> None:
    checkpoint = {"_target_": f"{LIGHTNING}.ModelCheckpoint"}
    given = {"here": {**checkpoint, "dirpath": str(tmp_path)}, "there": {**checkpoint, "monitor": "val/loss"}}
    here, there = own_callbacks(given, RunDir("run"))
    assert isinstance(here, ModelCheckpoint)
    assert isinstance(there, ModelCheckpoint)
    assert here.dirpath == str(tmp_path)
    assert there.dirpath == str(Path("run/callbacks/there").resolve())


def test_a_state_that_could_not_be_read_again_is_refused_as_it_is_saved(tmp_path: Path) -> None:
    checkpoint = {"callbacks": {"Diary": {"lines": ["a"], "since": [{"at": Path("x")}]}}}
    with pytest.raises(TrainingError, match=r"^callback Diary keeps a pathlib\.PosixPath in its state, and"):
        AtomicCheckpoints().save_checkpoint(checkpoint, tmp_path / "x.ckpt")
    assert not any(tmp_path.iterdir())
    checkpoint["callbacks"]["Diary"]["since"] = [torch.zeros(2)]  # type: ignore[list-item]
    AtomicCheckpoints().save_checkpoint(checkpoint, tmp_path / "x.ckpt")
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["callbacks"]["Diary"]["lines"] == ["a"]
