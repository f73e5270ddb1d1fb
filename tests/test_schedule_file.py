"""Schedules in files and in other people's words."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from programs import Program, fit
from stagetune.config.compose import compose
from stagetune.config.monitor import watched
from stagetune.config.resume import resumed
from stagetune.config.schema import Config
from stagetune.errors import ConfigError, ScheduleError
from stagetune.report.result import config_hash
from stagetune.schedule.backbone_finetuning import BackboneFinetuning, stages_of
from stagetune.schedule.load import load_schedule, read_schedule
from stagetune.schedule.network import describe
from stagetune.schedule.plan import PlannedStage
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.spec import Schedule, Stage, Until
from test_averages import Rates
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
    config = compose([f"schedule.file={written(PHASES, tmp_path)}", "model=resnet18"])
    plan = make_plan(watched(config), describe(task()))
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


SCHEDULER = "{lr_scheduler_init: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 1}}"


def phases(text: str, folder: Path) -> Schedule:
    return load_schedule(written(text, folder))


def test_phase_numbers_may_be_quoted(tmp_path: Path) -> None:
    text = "'0': {params: [head.*], lr: 1}\n1: {params: ['backbone.*']}\n"
    assert [stage.name for stage in phases(text, tmp_path).stages] == ["phase_0", "phase_1"]
    mapping = {"0": {"params": ["head.*"], "lr": 1}, 1: {"params": ["backbone.*"]}}
    assert load_schedule(mapping).stages == phases(text, tmp_path).stages


def test_the_last_phases_end_does_not_end_training(tmp_path: Path) -> None:
    text = "{0: {params: [a], lr: 1, max_transition_epoch: 2}, 1: {params: [b], max_transition_epoch: 3}}"
    assert [stage.until and stage.until.max_epochs for stage in phases(text, tmp_path).stages] == [2, 1000]
    alone = phases("0: {params: [a], lr: 1, max_transition_epoch: 3}", tmp_path)
    assert alone.stages[0].until == Until(max_epochs=1000)


def test_a_schedulers_interval_frequency_and_metric_are_those_of_the_file(tmp_path: Path) -> None:
    config = "pl_lrs_cfg: {interval: step, frequency: 2, monitor: val_loss, name: mine}"
    text = f"{{0: {{params: [a], lr: 1}}, 1: {{params: [b], new_lr_scheduler: {SCHEDULER}, {config}}}}}}}"
    schedule = phases(text, tmp_path)
    assert schedule.monitor == "val_loss"
    assert schedule.stages[1].lr_scheduler == {
        "_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "interval": "step", "frequency": 2,
    }  # fmt: skip


def test_a_frequency_is_so_many_epochs_between_steps_of_the_scheduler() -> None:
    spec = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.5, "frequency": 2}
    trace = Rates()
    fit(Program(), [Stage("all", ["all"], epochs=5, lr=0.1, lr_scheduler=spec)], trace)
    assert [entry["head"] for entry in trace.seen[::3]] == [0.1, 0.1, 0.05, 0.05, 0.025]


def test_a_pattern_is_a_whole_name_or_what_a_name_begins_with(tmp_path: Path) -> None:
    """As there: by re.match on names as the module has them, so that a look-ahead excludes the backbone."""
    text = "0: {params: ['(?!backbone).*', backbone.layer4.1.bn2.bias], lr: 1}"
    plan = make_plan(replace(phases(text, tmp_path), monitor="val_loss"), describe(task()))
    assert plan.stages[0].open == ("backbone.layer4.1.bn2.bias", "head.weight", "head.bias")
    stage = Stage("a", [{"params": "(?!backbone).*"}], lr=1.0)
    plan = make_plan(Schedule(stages=[stage], leave_frozen=True), describe(task()))
    assert plan.stages[0].open == ("head.weight", "head.bias")


def test_a_schedule_may_be_given_in_any_of_these_ways(tmp_path: Path) -> None:
    stage = {"name": "a", "open": ["all"], "epochs": 2, "lr": 0.1}
    expected = [Stage("a", ["all"], epochs=2, lr=0.1)]
    path = written(f"stages: [{stage}]", tmp_path)
    for given in (
        expected,
        [stage],
        {"stages": [stage]},
        path,
        str(path),
        Schedule(stages=expected),
        {"file": str(path)},
    ):
        assert load_schedule(given).stages == expected
    assert load_schedule("full").name == "full"
    assert (
        load_schedule({"backbone_finetuning": {"epochs": 3, "unfreeze_backbone_at_epoch": 1}}).stages[0].name
        == "head"
    )
    stages = load_schedule(expected).stages
    stages[0].open.append("head")
    assert expected[0].open == ["all"]  # nothing is shared


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("stagedd", r"there is no schedule stagedd; did you mean staged"),
        ([], "schedule.stages: is empty"),
        ({}, "schedule.stages: is empty"),
        ({"stagess": []}, r"stagess: no such key; did you mean stages\?"),
        (
            [{"name": "a", "opn": ["all"]}],
            r"no such key in stages\[0\]; did you mean stages\[0\]\.open",
        ),
        ({"stages": [{"name": "a", "open": ["all"], "lr": 1}], "file": "x.yaml"}, "gives both file and stages"),
        ([{"name": "a", "open": ["all"], "lrs": {"all": "x"}}], r"stages\[0\]\.lrs: all has the rate 'x'; give a"),
        (3, "3 is no schedule; give a preset's name, a path.yaml, a list of stages or a mapping"),
        (None, "None is no schedule"),
        (["staged"], r"stages\[0\]: expects keys and values, got 'staged'"),
        ("/", r"there is no schedule /; valid: .* Or give a path\.yaml"),
        ("folder.yaml", r"schedule file folder\.yaml cannot be read"),
    ],
)
def test_what_is_no_schedule_is_said_in_one_message(
    given: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(ScheduleError, match=message):
        load_schedule(given)


def test_an_edited_file_is_another_configuration(tmp_path: Path) -> None:
    """What is stored and hashed is what the file said: an edited one is trained anew, a run keeps its own."""

    def config(rate: float) -> Config:
        path = written(f"stages: [{{name: a, open: [all], epochs: 2, lr: {rate}}}]", tmp_path)
        return compose([f"schedule.file={path}"])

    first, second = config(0.1), config(0.2)
    assert set(asdict(first)["schedule"]) == {"name", "monitor", "mode", "leave_frozen", "stages"}
    assert (first.schedule.name, first.schedule.stages[0].lr, second.schedule.stages[0].lr) == ("phases", 0.1, 0.2)
    assert config_hash(asdict(first)) != config_hash(asdict(second))
    kept = tmp_path / "run"
    kept.mkdir()
    (kept / "config.yaml").write_text(yaml.safe_dump(asdict(first)))
    assert resumed(kept, {"resume_with_new_schedule": False}, []).schedule == first.schedule
    said = [f"schedule.file={tmp_path / 'phases.yaml'}"]
    again = resumed(kept, {"resume_with_new_schedule": False}, said)
    assert again.schedule.stages == second.schedule.stages


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
        ("0: {params: [head.*], lr: fast}", "phase 0: lr: expects a number greater than 0, got 'fast'"),
        ("0: {parms: [head.*], lr: 1}", "phase 0: parms is not understood here; use params, max_transition_epoch"),
        ("0: {params: [x], lr: 1, new_optimizer: {}}", "phase 0: new_optimizer is not understood here; use params"),
        ("{0: {params: [a], lr: 1}, '0': {params: [b]}}", "0 stands twice, again in line 1"),
        ("0: {params: [a], lr: 1}\n1: {params: [b]}\n0: {params: [c]}", "0 stands twice, again in line 3"),
        ("stages: []\nname: a\nname: b", "name stands twice, again in line 3"),
        ("{1: {params: [a], lr: 1}, 2: {params: [b]}}", "phases are numbered 0, 1, 2, ...; found [1, 2]"),
        ("0: {params: [], lr: 1}", "params: expects a list of names or patterns, got []"),
        ("0: {params: head.weight, lr: 1}", "params: expects a list of names or patterns, got 'head.weight'"),
        ("0: {params: [a], lr: 1, max_transition_epoch: soon}", "epoch: expects whole numbers, got 'soon'"),
        ("0: phase", "phase 0: expects keys and values, got 'phase'"),
        (
            f"0: {{params: [a], lr: 1, new_lr_scheduler: {SCHEDULER}}}}}",
            "phase 0: new_lr_scheduler: is for later phases; the first has the optimizer's own",
        ),
        (
            f"{{0: {{params: [a], lr: 1}}, 1: {{params: [b], new_lr_scheduler: {SCHEDULER}, init_pg_lrs: [x]}}}}}}",
            "phase 1: init_pg_lrs: expects a number greater than 0, got 'x'",
        ),
        (
            f"{{0: {{params: [a], lr: 1}}, 1: {{params: [b], new_lr_scheduler: {SCHEDULER}, init_pg_lrs: 3}}}}}}",
            "phase 1: init_pg_lrs: expects a list of rates, got 3",
        ),
        (
            f"{{0: {{params: [a], lr: 1}}, 1: {{params: [b], new_lr_scheduler: {SCHEDULER}, "
            "pl_lrs_cfg: {strict: 1}}}}",
            "phase 1: strict is not understood here; use interval, frequency, monitor, name",
        ),
        (
            f"{{0: {{params: [a], lr: 1}}, 1: {{params: [b], new_lr_scheduler: {SCHEDULER}, "
            "use_current_optimizer_pg_lrs: true}}}",
            "phase 1: use_current_optimizer_pg_lrs is not understood here",
        ),
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
        compose(["schedule.file=gone.yaml"])


def test_what_is_said_beside_a_file_holds_or_is_refused(tmp_path: Path) -> None:
    file = f"schedule.file={written(PHASES, tmp_path)}"
    config = compose([file, "schedule.monitor=val/loss", "schedule.mode=min", "model=resnet18"])
    assert {(stage.monitor, stage.mode) for stage in make_plan(watched(config), describe(task())).stages} == {
        ("val/loss", "min")
    }
    with pytest.raises(ConfigError) as caught:
        compose([file, "schedule=gradual", "schedule.stages.0.lr=0.1", "seed=1"])
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
    assert compose(["schedule=backbone_finetuning"]).schedule == once
