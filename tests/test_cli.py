"""The `stagetune` command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import start
from stagetune.cli import main
from stagetune.schedule.lr_schedulers import simulate
from stagetune.schedule.network import describe
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.timeline import rate_timeline
from test_schedule import Stage, schedule, task


def test_plan_prints_the_table_and_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "plan.png"
    main(["plan", "+experiment=siamese_staged", "schedule=gradual", "--picture", str(picture)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "schedule gradual: 6 stages, 8 epochs"
    assert lines[2].split() == [
        "stage", "epochs", "open", "trainable", "learning", "rate", "BatchNorm", "cached", "depth",
    ]  # fmt: skip
    assert lines[4].startswith("layer4  1       layer4, head   ")
    assert lines[-1] == str(picture)
    assert len(np.unique(np.asarray(Image.open(picture).convert("L")))) > 50  # not an empty sheet


def test_overrides_may_stand_on_both_sides_of_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = str(tmp_path / "plan.png")
    main(["plan", "+experiment=siamese_staged", "--picture", picture, "schedule=gradual", "seed=1"])
    assert capsys.readouterr().out.startswith("schedule gradual: ")
    with pytest.raises(SystemExit):
        main(["plan", "--picture", picture, "seed=1", "--pictures"])
    assert capsys.readouterr().err.endswith("unrecognized arguments: --pictures\n")


@pytest.mark.parametrize("command", ["plan", "lr"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plan.txt", "of this kind none can be drawn; let its name end in .png"),
        ("taken/plan.png", "cannot be written in {folder}/taken: "),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_said_before_the_work(
    command: str, name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(SystemExit):
        main([command, "model=resnet18", "--picture", str(tmp_path / name)])
    out, err = capsys.readouterr()
    assert f"picture {tmp_path / name}: {said.format(folder=tmp_path)}" in err
    assert not out


def test_plan_of_a_typo_is_an_error_without_torch() -> None:
    code = "import sys; from stagetune.cli import main\ntry: main(['plan', 'schedule=gradul'])\n"
    code += "except SystemExit as end: assert 'torch' not in sys.modules; sys.exit(end.code)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.endswith("schedule=gradul: no such schedule; did you mean gradual?\n")


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    words = ["plan", "+experiment=siamese_staged", "--picture", str(picture)]
    process = start("-m", "stagetune.cli", *words, cwd=tmp_path)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
    assert picture.exists()


def test_the_timeline_is_blank_where_frozen_and_follows_the_shape() -> None:
    stages = [
        Stage("a", ["head"], lr=1.0),
        Stage("b", ["layer4"], lr=1.0, lr_decay=0.5, lr_scheduler="linear"),
    ]
    timeline = rate_timeline(make_plan(schedule(*stages), describe(task())), simulate, points_per_epoch=4)
    rates = timeline.rates
    assert timeline.blocks == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert np.isnan(rates[:4]).all()
    assert np.isnan(rates[4, :4]).all()
    assert rates[4, 4:].tolist() == [0.5, 0.375, 0.25, 0.125]
    assert rates[5].tolist() == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_the_timeline_shows_the_course_of_a_torch_class_and_of_steps() -> None:
    step = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.5}
    stages = [
        Stage("a", ["head"], steps=80, lr=1.0, lr_scheduler="linear"),
        Stage("b", ["layer4"], epochs=2, lr=1.0, lr_decay=0.5, lr_scheduler=step),
    ]
    timeline = rate_timeline(make_plan(schedule(*stages), describe(task())), simulate, points_per_epoch=4)
    assert timeline.rates[5].tolist() == [1, 0.75, 0.5, 0.25, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert timeline.rates[4, 4:].tolist() == [0.5] * 4 + [0.25] * 4
    assert [(stage["name"], stage["start_epoch"], stage["epochs"]) for stage in timeline.stages] == [
        ("a (80 steps)", 0, 1), ("b", 1, 2),
    ]  # fmt: skip
