"""Schedules in files and in other people's words."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from stagetune.config.compose import load
from stagetune.errors import ConfigError, ScheduleError
from stagetune.schedule.backbone_finetuning import BackboneFinetuning, stages_of
from stagetune.schedule.load import load_schedule, read_schedule
from stagetune.schedule.network import describe
from stagetune.schedule.plan import PlannedStage
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.spec import Schedule
from test_schedule import task

PHASES = r"""
0:
  params:
  - head.weight
  - head.bias
  lr: 1e-3
  max_transition_epoch: 3
1:
  params:
  - backbone.layer4.1.conv2.weight
  - backbone.layer4.1.bn2.(weight|bias)
  max_transition_epoch: 10
2:
  params: [backbone.layer3.*]
  lr: 2.0e-04
  new_lr_scheduler:
    lr_scheduler_init:
      class_path: torch.optim.lr_scheduler.StepLR
      init_args: {step_size: 1, gamma: 0.7}
    pl_lrs_cfg: {interval: epoch, frequency: 1, name: mine}
    init_pg_lrs: [5.0e-04, 5.0e-04, 1.0e-06, 1.0e-06]
"""


def written(text: str, folder: Path) -> Path:
    path = folder / "phases.yaml"
    path.write_text(text)
    return path


def test_a_finetuning_schedulers_file_is_read_as_it_means_it(tmp_path: Path) -> None:
    config = load([f"schedule.file={written(PHASES, tmp_path)}", "model=resnet18"])
    plan = make_plan(config.schedule, describe(task()))
    assert (plan.name, plan.epochs) == ("phases", 3 + 7 + 1000)
    zero, one, two = plan.stages
    assert zero.open == ("head.weight", "head.bias")
    assert set(one.open) - set(zero.open) == {
        "backbone.layer4.1.conv2.weight", "backbone.layer4.1.bn2.weight", "backbone.layer4.1.bn2.bias",
    }  # fmt: skip
    assert two.open_blocks == ("layer3", "layer4", "head")
    assert [stage.epochs for stage in plan.stages] == [3, 7, 1000]
    for stage in plan.stages:  # it goes on where a metric stalls, from the best weights
        assert stage.until is not None
        assert (stage.monitor, stage.mode, stage.until.patience, stage.restore_best) == (
            "val/accuracy", "max", 3, True,
        )  # fmt: skip

    def rates(stage: PlannedStage) -> set[float]:
        return {rate for rate in stage.rates.values() if rate}

    assert rates(zero) == {1e-3}
    assert rates(one) == {1e-3, 1e-5}  # what a phase opened keeps its rate; 1e-5 where none is given
    assert rates(two) == {5e-4, 1e-6, 2e-4}
    assert [stage.target for stage in plan.stages] == ["", "", "torch.optim.lr_scheduler.StepLR"]
    assert two.lr_scheduler == {
        "_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.7,
        "interval": "epoch", "frequency": 1,
    }  # fmt: skip


def test_a_file_in_our_own_words_is_read_with_numbers_like_1e_3(tmp_path: Path) -> None:
    text = "stages:\n  - {name: a, open: [head], steps: 30, lr: 1e-3, lr_scheduler: one_cycle}\nleave_frozen: true\n"
    schedule = read_schedule(written(text, tmp_path))
    assert (schedule.name, schedule.stages[0].lr, schedule.stages[0].steps) == ("phases", 1e-3, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no schedule; give it stages, or phases 0, 1, ..."),
        ("stages: [{name: a, opn: [head], lr: 1}]", "no such key in stages[0]; did you mean stages[0].open?"),
        ("[1, 2]", "holds no schedule; give it stages, or phases 0, 1, ..."),
        ("a: [", "cannot be read: while parsing"),
        ("{0: {params: [a], lr: 1}, 2: {params: [b]}}", "phases are numbered 0, 1, 2, ...; found [0, 2]"),
        ("0: {params: [head.*]}", "phase 0: has no lr; finetuning-scheduler takes it from the optimizer"),
        ("0: {params: [head.*], lr: fast}", "phase 0: lr: expects a number, got 'fast'"),
        ("0: {parms: [head.*], lr: 1}", "phase 0: parms is not understood here; use params, max_transition_epoch"),
        ("0: {params: [x], lr: 1, new_optimizer: {}}", "phase 0: new_optimizer is not understood here; use params"),
        (
            "{0: {params: [a], lr: 1, max_transition_epoch: 5}, 1: {params: [b], max_transition_epoch: 5}}",
            "max_transition_epoch must rise from phase to phase, got [5, 5]",
        ),
        (
            "{0: {params: [a], lr: 1}, 1: {params: [b], new_lr_scheduler: {lr_scheduler_init: {class_path: x}, "
            "init_pg_lrs: [1, 2, 3]}}}",
            "phase 1: init_pg_lrs: gives 3 rates for 1 earlier phases; give one each",
        ),
    ],
)  # fmt: skip
def test_what_a_file_cannot_mean_is_said_with_the_place(text: str, message: str, tmp_path: Path) -> None:
    path = written(text, tmp_path)
    with pytest.raises(ScheduleError) as caught:
        read_schedule(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_one_problem_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match=r"schedule\.file: schedule file gone\.yaml does not exist \(looked in"):
        load(["schedule.file=gone.yaml"])


def test_what_is_said_beside_a_file_holds_or_is_refused(tmp_path: Path) -> None:
    file = f"schedule.file={written(PHASES, tmp_path)}"
    config = load([file, "schedule.monitor=val/loss", "schedule.mode=min", "model=resnet18"])
    assert {(stage.monitor, stage.mode) for stage in make_plan(config.schedule, describe(task())).stages} == {
        ("val/loss", "min")
    }
    with pytest.raises(ConfigError) as caught:
        load([file, "schedule=gradual", "schedule.stages.0.lr=0.1", "seed=1"])
    assert caught.value.problems == [
        f"{said}: has no effect beside {file}; leave it out, or say it in the file"
        for said in ("schedule=gradual", "schedule.stages.0.lr=0.1")
    ]


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    schedule = read_schedule(written("0: {params: [classifier.weight], lr: 1}", tmp_path))
    with pytest.raises(ScheduleError, match=r"stage phase_0: params: classifier.weight matches nothing"):
        make_plan(Schedule(stages=schedule.stages, monitor="val_loss"), describe(task()))


@pytest.mark.parametrize(
    ("said", "rates"),
    [
        ({}, [0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]),
        ({"lambda_func": 3.0, "should_align": False}, [0.0, 0.0, 0.1, 0.3, 0.9, 2.7, 8.1, 24.3]),
        ({"backbone_initial_lr": 0.5}, [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ({"backbone_initial_ratio_lr": None, "initial_denom_lr": 4.0}, [0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0]),
        ({"unfreeze_backbone_at_epoch": 12}, [0.0] * 8),
    ],
)
def test_backbone_finetuning_does_what_its_arguments_say(said: dict[str, Any], rates: list[float]) -> None:
    recipe = BackboneFinetuning(
        **{"unfreeze_backbone_at_epoch": 2, "lr": 1.0, "epochs": 8, "train_bn": False, **said}
    )
    plan = make_plan(Schedule(stages=stages_of(recipe), leave_frozen=True), describe(task()))
    found = [stage.rates.get("backbone.stem.part1", 0.0) for stage in plan.stages for _ in range(stage.epochs or 0)]
    assert found == pytest.approx(rates)
    assert all(stage.rates["head"] == 1.0 for stage in plan.stages)


@pytest.mark.parametrize("train_bn", [True, False])
def test_train_bn_says_whether_batch_norm_trains_and_it_does(train_bn: bool) -> None:
    """Lightning's own lets the statistics of a BatchNorm move that should not be trained."""
    stages = stages_of(BackboneFinetuning(unfreeze_backbone_at_epoch=1, epochs=3, train_bn=train_bn))
    model = describe(task())
    norms = {p.name for p in model.parameters if p.norm}
    plan = make_plan(Schedule(stages=stages, leave_frozen=True), model)
    for stage in plan.stages:
        assert norms & set(stage.open) == (norms if train_bn else set())
        assert train_bn or stage.batch_norm == "frozen"


def test_loading_what_was_loaded_changes_nothing() -> None:
    once = load_schedule("backbone_finetuning")
    assert load_schedule(once) == once
    assert load_schedule(asdict(once)) == once
    assert load(["schedule=backbone_finetuning"]).schedule == replace(once, monitor="val/accuracy")
