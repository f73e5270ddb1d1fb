"""A run that goes on knows its data: what they are, and not where they lie."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from stagetune import run_experiment
from stagetune.artifacts import METADATA, RunDir
from stagetune.data.contents import Kept, changes, data_key
from stagetune.data.sources.image_folder import Settings
from stagetune.errors import ConfigError, DataError, StagetuneError, WeightsError
from stagetune.report.result import read_result


def kept(classes: str = "anna ben", **parts: str) -> Kept:
    """Of words such as "a0 b1": images by a letter, their labels by a number."""
    words = {part: parts.get(part, "").split() for part in ("train", "val", "test")}
    images = {p: {"images": [w[0] for w in ws], "labels": [int(w[1]) for w in ws]} for p, ws in words.items()}
    return {"keys": 1, "classes": classes.split(), "groups": "", "pairs": "", **images}


BEFORE = kept(train="a0 b0 c1 d1", val="e0 f1", test="g0 h1")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (BEFORE, []),
        (kept(train="d1 a0 b0 c1", val="f1 e0", test="g0 h1"), []),  # in another order
        (
            kept(train="a0 b0 c1 d1 i1", val="e0 f1 j1", test="g0"),
            ["2 images came, such as train 4", "1 image went, such as one of ben in test"],
        ),
        (
            kept(train="a0 b0 c1 d0", val="e0 f1", test="g0 h1"),
            ["1 image is of another class, such as train 3 (anna, was ben)"],
        ),
        (
            kept(train="a0 e0 c1 d1", val="b0 f1", test="g0 h1"),
            ["2 images are in another part, such as train 1 (train, was val)"],
        ),
        (kept("anna zoe", train="a0 b0 c1 d1", val="e0 f1", test="g0 h1"), ["class ben is called zoe now"]),
        (kept("ben zoe", train="a1 b1 c0 d0", val="e1 f0", test="g1 h0"), ["class anna is called zoe now"]),
        (
            kept("ben zoe", train="a1 b1 c0 d0 i1", val="e1 f0", test="h0"),
            [
                "class anna is called zoe now",
                "1 image came, such as train 4",
                "1 image went, such as one of zoe in test",
            ],
        ),
        (kept("ben anna", train="a1 b1 c0 d0", val="e1 f0", test="g1 h0"), ["the classes are in another order"]),
        (
            kept("anna ben cy", train="a0 b0 c1 d1 i2", val="e0 f1", test="g0 h1"),
            ["1 class came, cy", "1 image came, such as train 4"],
        ),
        (
            kept("anna", train="a0 b0", val="e0", test="g0"),
            ["1 class went, ben", "4 images went, such as one of ben in train"],
        ),
        (kept(train="a0 b0 c1 d1 a0", val="e0 f1", test="g0 h1"), ["1 image came, such as train 4"]),  # a copy
        ({**BEFORE, "groups": "x"}, ["the groups are others"]),
        ({**BEFORE, "pairs": "x"}, ["the pairs are others"]),
    ],
)  # fmt: skip
def test_what_has_changed_is_named(now: Kept, said: list[str]) -> None:
    assert changes(BEFORE, now, lambda part, i: f"{part} {i}") == said


def test_copies_of_an_image_are_told_apart_by_where_they_are() -> None:
    before, now = kept(train="a0 a0 b1", val="a1"), kept(train="a0 a1 b1", val="a0")
    assert changes(before, now, lambda part, i: f"{part} {i}") == []  # as many of each class and in each part
    now = kept(train="a0 a1 b1", val="a1")
    assert changes(before, now, lambda part, i: f"{part} {i}") == [
        "1 image is of another class, such as train 1 (ben, was anna)"
    ]


def test_the_key_of_data_is_of_what_they_are(folder: Path, tmp_path: Path) -> None:
    def key(root: Path) -> str:
        return data_key(Settings(root=str(root)).build(32)[0])

    other = tmp_path / "elsewhere"
    shutil.copytree(folder, other)
    (other / "red" / "0.png").rename(other / "red" / "x.png")
    assert key(other) == key(folder)
    (other / "red" / "x.png").rename(other / "blue" / "x.png")
    assert key(other) != key(folder)
    (other / "red").rename(other / "r\udcff")  # a name that is no UTF-8
    assert key(other) not in (key(folder), "")


WORDS = (
    "+experiment=classifier_staged", "data=image_folder", "data.image_size=32", "model=resnet18",
    "model.weights=random", "precision=fp32", "trainer=cpu", "data.num_workers=0",
    "schedule=head_only", "schedule.stages.0.epochs=2",
    "checkpoint.min_seconds=0",
)  # fmt: skip


def keeping_the_first(save: Callable[..., None], first: Path) -> Callable[..., None]:
    def saved(trainer: Trainer, path: Path) -> None:
        save(trainer, path)
        if not first.exists():
            shutil.copy(path, first)

    return saved


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of images, and a run on them, with last.ckpt as it was after the first of two epochs."""
    root, rng = tmp_path_factory.mktemp("same"), np.random.default_rng(0)
    for name in ("anna", "ben", "cleo"):
        for i in range(10):
            path = root / "images" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stagetune.run.experiment.draw_run", lambda *_: None)
        patch.setattr("stagetune.run.probe.MOST_FITTED", 0)
        patch.setenv("STAGETUNE_CACHE", str(root / "cache"))
        run = RunDir(root / "run")
        first = run.last.with_suffix(".first")
        patch.setattr(Trainer, "save_checkpoint", keeping_the_first(Trainer.save_checkpoint, first))
        run_experiment([*WORDS, f"data.root={root / 'images'}"], run.path)
    shutil.copytree(run.path, root / "whole")
    os.replace(first, run.last)
    run.result.unlink()
    return root / "images", root / "run"


def add_three_of_each(images: Path) -> None:
    rng = np.random.default_rng(1)
    for folder in images.iterdir():
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(folder / f"new_{i}.png")


def rename(images: Path) -> None:
    (images / "anna").rename(images / "zoe")


def relabel(images: Path) -> None:
    (images / "anna" / "3.png").rename(images / "ben" / "x.png")


def remove(images: Path) -> None:
    (images / "anna" / "3.png").unlink()


def edit(images: Path) -> None:
    Image.new("RGB", (24, 20), "red").save(images / "anna" / "3.png")


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures", "_no_probe")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add_three_of_each, r"9 images came, such as \S+/new_\d\.png; \d+ images are in another part, such as"),
        (rename, "class anna is called zoe now"),
        (relabel, r"1 image is of another class, such as \S+/ben/x\.png \(ben, was anna\)"),
        (remove, r"1 image went, such as one of anna in (train|val|test)"),
        (edit, r"1 image came, such as \S+/anna/3\.png; 1 image went, such as one of anna in"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(
    change: Callable[[Path], None], said: str, begun: tuple[Path, Path], tmp_path: Path
) -> None:
    """Until they are put back."""
    images, run_dir = tmp_path / "images", tmp_path / "run"
    shutil.copytree(begun[0], images)
    shutil.copytree(begun[1], run_dir)
    change(images)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(
        DataError, match=rf"run: its data are not what it was begun with: {said}.*; put them back as they were, or"
    ):
        run_experiment([f"resume={run_dir}", f"data.root={images}"])
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures", "_no_probe")
def test_a_run_goes_on_where_its_images_lie_now(
    begun: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, run_dir = tmp_path / "other" / "place", tmp_path / "run"
    shutil.copytree(begun[0], images)
    shutil.copytree(begun[1], run_dir)
    with pytest.raises(ConfigError, match=r"data\.val=0\.3: the run was begun with 0\.2; leave it so"):
        run_experiment([f"resume={run_dir}", f"data.root={images}", "data.val=0.3"])
    result = run_experiment([f"resume={run_dir}", f"data.root={images}"])
    expected = read_result(begun[1].with_name("whole"))
    assert (result.status, result.best, result.test) == ("completed", expected.best, expected.test)
    assert result.data == {**expected.data, "notes": result.data["notes"]}
    assert f"resume    from {run_dir}/checkpoints/last.ckpt\n" in capsys.readouterr().out


def edited(last: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(last, weights_only=True)
    change(content[METADATA])
    torch.save(content, last)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures", "_no_probe")
def test_what_a_checkpoint_does_not_say_of_its_images_is_not_compared(
    begun: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of an earlier version, or with keys of another kind; what makes no sense is damaged."""
    cannot = "; an earlier version began it, so that its images cannot be compared with those of before\n"
    ways: dict[str, tuple[Callable[[dict[str, Any]], object], type[StagetuneError] | None]] = {
        "earlier": (lambda metadata: metadata.pop("data"), None),
        "other keys": (lambda metadata: metadata["data"].update(keys=0), None),
        "damaged": (lambda metadata: metadata["data"]["val"].update(labels=[9]), WeightsError),
    }
    for name, (change, error) in ways.items():
        run_dir = tmp_path / name.replace(" ", "_")
        shutil.copytree(begun[1], run_dir)
        edited(RunDir(run_dir).last, change)
        if error:
            with pytest.raises(error, match=r"last\.ckpt: what it says of the images of its run is damaged; start"):
                run_experiment([f"resume={run_dir}"])
        else:
            assert run_experiment([f"resume={run_dir}"]).status == "completed"
            assert cannot in capsys.readouterr().out
