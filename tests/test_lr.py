"""`stagetune lr`: what a learning-rate test proposes, that it leaves no trace, and what it says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from stagetune.cli import main
from stagetune.run import lr_test
from stagetune.run.lr_curve import Curve, proposal, range_test
from stagetune.run.lr_test import StageTest, rate_notes, rate_overrides, rate_table
from stagetune.schedule.spec import Stage

SMALL = [
    "model=resnet18", "model.weights=random", "data.image_size=16", "precision=fp32", "trainer=cpu",
    "data.batch_size=16", "+trainer.limit_train_batches=4",
]  # fmt: skip


@pytest.mark.parametrize("curvature", [0.1, 4.0, 300.0])
def test_gradient_descent_on_a_noisy_parabola_diverges_beyond_two_over_its_curvature(curvature: float) -> None:
    rng, x = np.random.default_rng(0), 10.0

    def step(rate: float) -> float:
        nonlocal x
        apart = x - rng.normal()
        x -= rate * curvature * apart
        return 0.5 * curvature * apart**2

    edge = 2 / curvature
    curve = range_test(step, low=1e-6, high=1e3, steps=200)
    assert len(curve.rates) < 200
    assert edge < curve.rates[-1] < 5 * edge
    proposed = proposal(curve)
    assert proposed is not None
    assert edge / 100 < proposed < edge / 5


@pytest.mark.parametrize("seed", range(5))
def test_where_nothing_is_learnt_nothing_is_proposed(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curve = range_test(lambda rate: 1 + 0.1 * rng.normal() + rate, low=1e-6, high=10, steps=100)
    assert proposal(curve) is None


def test_it_ends_before_a_loss_that_is_no_number() -> None:
    curve = range_test(lambda rate: 1.0 if rate < 0.9 else float("nan"), low=1e-6, high=10, steps=8)
    assert curve.rates == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1])


@pytest.mark.parametrize(("drops_at", "rises"), [(1e-3, True), (1e-3, False)], ids=["diverges", "bears any rate"])
def test_a_proposal_is_a_tenth_of_where_the_loss_is_first_as_low_as_it_gets(drops_at: float, rises: bool) -> None:
    rng = np.random.default_rng(0)

    def loss(rate: float) -> float:
        return float(0.01 * rng.normal()) + (2.0 if rate < drops_at else 100 * rate if rises and rate > 0.1 else 1.0)

    proposed = proposal(range_test(loss, low=1e-6, high=10, steps=100))
    assert proposed is not None
    assert drops_at / 10 < proposed < 10 * drops_at  # the average follows ten or twenty steps behind, of 14 a decade


def found(stage: Stage, scheduled: float, proposed: float | None) -> StageTest:
    curve = Curve(np.array([0.01, 0.1]), np.array([1.0, 0.5]), np.array([1.0, 0.75]))
    return StageTest(stage, scheduled, curve, proposed, "images", 1.25)


def test_a_proposal_is_said_in_the_words_of_its_stage() -> None:
    tests = [
        found(Stage("one", lr=1e-3), 1e-3, 1e-2),
        found(Stage("range", lr_range=[1e-5, 1e-3]), 1e-3, 5e-4),
        found(Stage("each", lr=1e-3, lrs={"*.bn1": 1e-4}), 1e-3, 2e-3),
        found(Stage("flat", lr=1e-3), 1e-3, None),
    ]
    assert list(rate_overrides(tests)) == [
        "schedule.stages.0.lr=1.0e-02",
        "schedule.stages.1.lr_range=[5.0e-06,5.0e-04]",
    ]
    assert list(rate_notes(tests)) == [
        "stage each: multiply its lrs by 2, and its lr",
        "stage flat: at no rate did the loss fall clearly below where it began",
    ]
    assert [line.split("  ")[0] for line in rate_table(tests).splitlines()] == [
        "stage",
        "one",
        "range",
        "each",
        "flat",
    ]


@pytest.mark.slow
def test_it_proposes_rates_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[str, Any] = {}
    make = lr_test.first_task

    def first_task(*arguments: Any) -> Any:
        seen["task"] = task = make(*arguments)
        seen["before"] = {name: value.clone() for name, value in task.state_dict().items()}
        seen["open"] = [parameter.requires_grad for parameter in task.parameters()]
        return task

    monkeypatch.setattr(lr_test, "first_task", first_task)
    torch.manual_seed(3)
    drawn, np_drawn = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    words = ["schedule=lp_ft", "schedule.stages.0.epochs=1", "schedule.stages.0.lr=1e-3"]
    main(["lr", "+experiment=classifier_staged", *SMALL, *words, "--steps", "60"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["testing   stage probe", "testing   stage finetune"]
    assert "features of layer4, not augmented" in lines[3]
    assert "  images  " in lines[4]
    assert any(line.startswith("schedule.stages.0.lr=") for line in lines)
    assert lines[-1] == "outputs/lr/classifier_staged.png"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / lines[-1]]
    assert len(np.unique(np.asarray(Image.open(lines[-1]).convert("L")))) > 50
    task = seen["task"]
    moved = {name for name, value in task.state_dict().items() if not torch.equal(value, seen["before"][name])}
    assert moved == {"head.weight", "head.bias"}  # as the first stage trains it, for the second
    assert [parameter.requires_grad for parameter in task.parameters()] == seen["open"]
    assert all(parameter.grad is None for parameter in task.parameters())
    assert all(layer.training for layer in task.modules())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert (np.random.get_state()[1] == np_drawn).all()  # type: ignore[index]


@pytest.mark.slow
def test_a_siamese_task_is_tested_too_on_features_without_augmentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["lr", "+experiment=siamese_staged", *SMALL, "schedule=head_only", "--steps", "50", "--picture", "a.png"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("head")
    assert "  features of layer4, not augmented  " in lines[2]
    assert lines[-1] == "a.png"
    assert Path("a.png").exists()


def test_stages_of_a_file_are_told_where_a_rate_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("leave_frozen: true\nstages: [{name: one, open: [head], lr: 1.0e-3}]")
    monkeypatch.setattr(lr_test, "rate_tests", lambda *_: [found(Stage("one", lr=1e-3), 1e-3, 1e-2)])
    main(["lr", "schedule.file=mine.yaml"])
    said = capsys.readouterr().out.splitlines()[2:]
    assert said == [
        "schedule.stages.0.lr=1.0e-02 (where the schedule's stages are said)",
        "outputs/lr/classifier_staged.png",
    ]


def test_what_it_cannot_do_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").write_text("{name: a, seed: 0}")
    for words, message in (
        (["schedule=gradul"], "schedule=gradul: no such schedule; did you mean gradual?"),
        (["resume=nowhere"], "resume=nowhere: holds no run, nowhere/config.yaml does not exist"),
        (["--steps", "10"], "argument --steps: 10: a curve needs at least 50 steps"),
    ):
        with pytest.raises(SystemExit):
            main(["lr", *words])
        assert message in capsys.readouterr().err
