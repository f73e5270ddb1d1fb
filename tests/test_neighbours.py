"""The schedule beside Lightning's callbacks and settings: right by the numbers of a plain loop, or refused by name.

Each row of the table in docs/schedules.md is a test here or, where another file is named there, in that one.
"""

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import LBFGS, SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader, IterableDataset

from programs import QUIET, Program, assert_equal, fit, images, loader, loop
from stagetune.errors import ScheduleError
from stagetune.schedule import neighbours
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage
from stagetune.schedule.spec import Schedule, Stage, Until

HEAD, ALL = {"head": 0.1}, {"": 0.05}
STAGES = [Stage("head", ["head"], lr=0.1), Stage("all", ["all"], epochs=2, lr=0.05)]  # of 3 and 6 steps
CUT = [Stage("head", ["head"], steps=4, lr=0.1), Stage("all", ["all"], epochs=2, lr=0.05)]  # 3 + 1, then 6


class Trace(Callback):
    """The rates of each step, the step and epoch of each validation, and the events."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.validated: list[int] = []
        self.events: list[str] = []

    def on_before_optimizer_step(self, trainer: Trainer, *_: Any) -> None:
        self.rates.append(max(group["lr"] for group in trainer.optimizers[0].param_groups))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        self.events.append(f"{stage.name} starts at {trainer.global_step}")

    def on_stage_end(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        self.events.append(f"{stage.name} ends at {trainer.global_step}")


class StopAt(Callback):
    """Asks for a stop in the validation of an epoch, as a person or a rule of their own would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking and trainer.current_epoch == self.epoch:
            trainer.should_stop = True


def check(stages: Any, course: Any, *more: Callback, steps: int, **settings: Any) -> tuple[Trainer, Trace]:
    """A fit does so many steps and ends with the weights of the plain loop."""
    module, plain, trace = Program(), Program(), Trace()
    windows = settings.pop("windows", lambda epoch: 1)
    batches = settings.pop("batches", None)
    trainer = fit(module, stages, trace, *more, **settings)
    assert trainer.global_step == steps
    loop(plain, course, windows=windows, batches=batches)
    assert_equal(module, plain)
    return trainer, trace


# ----------------------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize(("stages", "steps"), [(STAGES, 3), (CUT, 3)])
def test_a_stop_that_somebody_else_asks_for_is_kept(stages: Any, steps: int) -> None:
    check(stages, [(HEAD, steps)], StopAt(0), steps=steps)


def test_a_stop_that_is_asked_for_where_a_stage_of_steps_ends_is_kept() -> None:
    stages = [Stage("head", ["head"], steps=2, lr=0.1), Stage("all", ["all"], epochs=5, lr=0.05)]
    check(stages, [(HEAD, 2)], StopAt(0), steps=2)


def test_early_stopping_stops_by_its_own_rule() -> None:
    stages = [Stage("head", ["head"], steps=2, lr=0.1), Stage("all", ["all"], epochs=20, lr=0.05)]
    stop = EarlyStopping("val_loss", patience=2, min_delta=10.0)
    check(stages, [(HEAD, 2), None, (ALL, 6)], stop, steps=8)
    assert stop.stopped_epoch == 2


def test_early_stopping_under_min_epochs_stops_then() -> None:
    stages = [Stage("head", ["head"], steps=2, lr=0.1), Stage("all", ["all"], epochs=20, lr=0.05)]
    check(
        stages,
        [(HEAD, 2), None, (ALL, 9)],
        EarlyStopping("val_loss", patience=1, min_delta=10.0),
        steps=11,
        min_epochs=4,
    )


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"max_epochs": 2}, 6), ({"max_steps": 4}, 4), ({"max_epochs": 1}, 3), ({"max_steps": 2}, 2)],
)
def test_max_epochs_and_max_steps_are_obeyed_and_said(settings: dict[str, int], steps: int) -> None:
    ((key, value),) = settings.items()
    with pytest.warns(UserWarning, match=rf"Trainer\({key}={value}\) ends training before the schedule"):
        check(STAGES, [(HEAD, min(steps, 3)), (ALL, max(steps - 3, 0))], steps=steps, **settings)


@pytest.mark.parametrize(
    "settings",
    [{"max_epochs": 9}, {"max_steps": 99}, {"min_epochs": 2}, {"min_steps": 9}, {"min_epochs": 2, "min_steps": 5},
     {"max_epochs": -1}],
)  # fmt: skip
@pytest.mark.parametrize(("stages", "first"), [(STAGES, 3), (CUT, 4)])
def test_limits_that_the_schedule_keeps_change_nothing(settings: dict[str, int], stages: Any, first: int) -> None:
    check(stages, [(HEAD, first), None, (ALL, 6)], steps=first + 6, **settings)


@pytest.mark.parametrize("settings", [{"min_epochs": 4}, {"min_steps": 10}])
@pytest.mark.parametrize("until", [False, True])
def test_a_least_length_that_the_schedule_may_not_reach_is_refused(settings: dict[str, int], until: bool) -> None:
    last = {"until": Until("val_loss", patience=2, max_epochs=50)} if until else {"epochs": 2}
    stages = [STAGES[0], Stage("all", ["all"], lr=0.05, **last)]  # type: ignore[arg-type]
    ((key, value),) = settings.items()
    least = 3 if key == "min_epochs" else 9
    with pytest.raises(ScheduleError, match=rf"Trainer\({key}={value}\): the schedule may end after {least}; let it"):
        fit(Program(), stages, **settings)


def test_a_timer_ends_training() -> None:
    for interval, steps in (("step", 1), ("epoch", 3)):
        trainer = fit(Program(), STAGES, Timer(timedelta(microseconds=1), interval=interval))
        assert trainer.global_step in (0, steps)  # on time, in no stage's way


def test_limits_of_the_trainer_are_its_own_again_afterwards() -> None:
    trainer = fit(Program(), CUT, max_epochs=50)
    assert trainer.max_epochs == 50
    assert trainer.num_training_batches == 3
    trainer = fit(Program(), CUT, fast_dev_run=True)
    assert trainer.max_steps == 1


# ------------------------------------------------------------------------------------------ how much of which data


def test_limit_train_batches_and_overfit_batches() -> None:
    two = list(loader())[:2]
    for settings in ({"limit_train_batches": 2}, {"limit_train_batches": 0.7}, {"overfit_batches": 2}):
        check(STAGES, [(HEAD, 2), (ALL, 4)], steps=6, batches=two, **settings)


@pytest.mark.parametrize("settings", [{"limit_val_batches": 0}, {"limit_val_batches": 1}])
def test_limit_val_batches(settings: dict[str, Any]) -> None:
    _, trace = check(CUT, [(HEAD, 4), None, (ALL, 6)], steps=10, **settings)
    assert trace.validated == ([3, 4, 7, 10] if settings["limit_val_batches"] else [])


@pytest.mark.parametrize(
    ("settings", "validated"),
    [
        ({"val_check_interval": 2}, [2, 4, 6, 9]),  # of the second epoch, cut after its first batch, at its end
        ({"val_check_interval": 1}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"val_check_interval": 0.34}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"val_check_interval": "00:00:00:00"}, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"val_check_interval": timedelta(hours=1)}, [4]),
        ({"check_val_every_n_epoch": 2}, [4, 10]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 4}, [4, 8]),
    ],
)
def test_validation_comes_when_it_is_said_and_where_a_stage_cuts_its_epoch(
    settings: dict[str, Any], validated: list[int]
) -> None:
    _, trace = check(CUT, [(HEAD, 4), None, (ALL, 6)], steps=10, **settings)
    assert trace.validated == validated


class Measured(Program):
    """Its val_loss is given, one value for each validation."""

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.values = iter([*values, *[1.0] * 99])
        self.seen: list[tuple[int, float, Tensor]] = []

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.trainer.sanity_checking:
            self.log("val_loss", 9.0)
            return
        value = next(self.values)
        self.seen.append((self.global_step, value, self.head.weight.detach().clone()))
        self.log("val_loss", value)


@pytest.mark.parametrize("interval", [1.0, 0.34, "00:00:00:00"])
def test_a_stage_goes_back_to_the_weights_of_its_best_validation(interval: Any) -> None:
    module = Measured([0.5, 0.3, 0.1, 0.4, 0.6, 0.7, 0.8, 0.9])
    stages = Schedule(
        stages=[Stage("all", ["all"], until=Until(patience=4, max_epochs=9), restore_best=True, lr=0.1)],
        monitor="val_loss",
    )
    fit(module, stages, val_check_interval=interval)
    best = min(module.seen, key=lambda entry: entry[1])
    assert torch.equal(module.head.weight, best[2])
    assert len(module.seen) == (7 if interval == 1.0 else 9)  # stalled for 4, to the end of the epoch


def test_with_check_val_every_n_epoch_only_its_validations_count() -> None:
    module = Measured([0.5, 0.6, 0.7])
    stages = Schedule(
        stages=[Stage("all", ["all"], until=Until(patience=2, max_epochs=20), lr=0.1)], monitor="val_loss"
    )
    assert fit(module, stages, check_val_every_n_epoch=2).current_epoch == 6


@pytest.mark.parametrize("interval", [{"val_check_interval": 4, "check_val_every_n_epoch": None},
                                      {"check_val_every_n_epoch": 2}])  # fmt: skip
def test_a_validation_that_comes_after_the_first_epoch_is_waited_for(interval: dict[str, Any]) -> None:
    until = Until("val_loss", patience=1, max_epochs=9)
    stages = [Stage("head", ["head"], until=until, lr=0.1), Stage("all", ["all"], until=until, lr=0.1)]
    assert fit(Measured([0.5, 0.6, 0.7, 0.8, 0.9]), stages, **interval).current_epoch > 2
    missing = [stages[0], Stage("all", ["all"], until=Until("val_los", "min"), lr=0.1)]
    with pytest.raises(ScheduleError, match="stage all looks at val_los, measured are: "):
        fit(Measured([0.5] * 9), missing, **interval)


@pytest.mark.parametrize("where", ["training_step", "on_train_epoch_end"])
def test_a_metric_that_training_logs_is_that_of_this_epoch(where: str) -> None:
    class Logs(Program):
        def __init__(self) -> None:
            super().__init__()
            self.course = [0.5, 0.4, 0.6, 0.7, 0.8, 0.9]
            self.weights: list[Tensor] = []

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if where == "training_step":
                self.log("course", self.course[self.current_epoch], on_step=False, on_epoch=True)
            return loss

        def on_train_epoch_end(self) -> None:
            self.weights.append(self.head.weight.detach().clone())
            if where == "on_train_epoch_end":
                self.log("course", self.course[self.current_epoch])

    module = Logs()
    until = Until("course", "min", patience=2, max_epochs=9)
    trainer = fit(module, [Stage("all", ["all"], until=until, restore_best=True, lr=0.1)])
    assert trainer.current_epoch == 4
    assert torch.equal(module.head.weight, module.weights[1])


@pytest.mark.parametrize("batches", [True, 2])
def test_fast_dev_run_trains_so_many_batches_of_each_stage(batches: Any) -> None:
    until = Stage("until", ["all"], until=Until("val_loss", max_epochs=30), lr=0.05)
    stages = [STAGES[0], until, Stage("steps", steps=1, lr=0.05), Stage("last", steps=50, lr=0.05)]
    count = int(batches)
    course = [(HEAD, count), (ALL, count), (ALL, 1), (ALL, count)]
    taken = list(loader())[:count]
    rows = [taken, taken, taken[:1], taken]
    module, plain, trace = Program(), Program(), Trace()
    trainer = fit(module, stages, trace, fast_dev_run=batches)
    assert trainer.global_step == 3 * count + 1
    loop(plain, course, batches=[batch for row in rows for batch in row])
    assert_equal(module, plain)
    assert [event.split()[0] for event in trace.events[::2]] == ["head", "until", "steps", "last"]


def test_barebones_is_right_and_refused_only_where_a_stage_looks_at_a_metric() -> None:
    off = {"enable_checkpointing": None, "logger": None, "enable_progress_bar": None, "enable_model_summary": None,
           "num_sanity_val_steps": None, "barebones": True}  # fmt: skip
    check(CUT, [(HEAD, 4), None, (ALL, 6)], steps=10, **off)
    watched = Schedule(stages=[Stage("a", ["all"], until=Until(), lr=0.1)], monitor="val_loss")
    with pytest.raises(
        ScheduleError, match=r"stage a looks at val_loss, which Trainer\(barebones=True\) does not log"
    ):
        fit(Program(), watched, **off)


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        while True:
            yield from images()


def test_data_without_an_end_is_trained_by_steps() -> None:
    stages = [
        Stage("head", ["head"], steps=4, lr=0.1, lr_scheduler="linear"),
        Stage("all", ["all"], steps=5, lr=0.05),
    ]
    module, plain, trace = Program(), Program(), Trace()
    fit(module, stages, trace, data=(DataLoader(Endless(), 8), loader(8)))
    assert trace.events == ["head starts at 0", "head ends at 4", "all starts at 4", "all ends at 9"]
    assert trace.validated == [4, 9]
    first, second = [list(loader())[i % 3] for i in range(4)], [list(loader())[i % 3] for i in range(5)]
    loop(plain, [*(({"head": 0.1 * (1 - i / 4)}, 1) for i in range(4)), (ALL, 5)], batches=[*first, *second])
    assert_equal(module, plain)


# ------------------------------------------------------------------------------------------------ accumulation, rates


@pytest.mark.parametrize("scheduling", [{0: 1, 1: 3}, {0: 2, 2: 1}, {1: 2}])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_gradient_accumulation_scheduler_within_a_stage(scheduling: dict[int, int], place: str) -> None:
    """The rates come down over the steps that there are."""
    windows = GradientAccumulationScheduler(dict(scheduling)).get_accumulate_grad_batches
    total = sum(math.ceil(3 / windows(epoch)) for epoch in range(1, 4))
    first = math.ceil(3 / windows(0))
    one_cycle = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "cycle_momentum": False}
    shapes: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
        ("cosine", lambda o: CosineAnnealingLR(o, total)),
        (one_cycle, lambda o: OneCycleLR(o, 0.05, total_steps=total, cycle_momentum=False)),
    )
    for shape, theirs in shapes:
        stages = [STAGES[0], Stage("all", ["all"], epochs=3, lr=0.05, lr_scheduler=shape)]
        probe = SGD([nn.Parameter(torch.zeros(()))], lr=0.05)
        scheduler, rates = theirs(probe), []
        for step in range(total):
            rates.append(probe.param_groups[0]["lr"])
            probe.step()
            if step < total - 1:
                scheduler.step()
        module, plain, trace = Program(), Program(), Trace()
        accumulator = GradientAccumulationScheduler(dict(scheduling))
        beside: Any = {"first": [accumulator]} if place == "before" else {}
        fit(module, stages, trace, *([] if beside else [accumulator]), **beside)
        assert trace.rates == pytest.approx([0.1] * first + rates)
        loop(plain, [(HEAD, first), *(({"": rate}, 1) for rate in rates)], windows=windows)
        assert_equal(module, plain)


def test_accumulation_and_a_stage_of_steps() -> None:
    """2 steps of 2 and 1 batches, then 1 of 2, which cuts the epoch."""
    stages = [Stage("head", ["head"], steps=3, lr=0.1), Stage("all", ["all"], epochs=1, lr=0.05)]
    course = [(HEAD, 3), None, (ALL, 2)]
    check(stages, course, steps=5, accumulate_grad_batches=2, windows=lambda epoch: 2)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("interval", ["step", "epoch", None])
def test_a_learning_rate_monitor_sees_the_stages_rates_in_any_order(
    place: str, interval: Any, tmp_path: Path
) -> None:
    monitor = LearningRateMonitor(interval)
    plateau = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0}
    schedule = Schedule(stages=[*STAGES, Stage("last", lr=0.01, lr_scheduler=plateau)], monitor="val_loss")
    beside: Any = {"first": [monitor]} if place == "before" else {}
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    fit(Program(), schedule, *([] if beside else [monitor]), logger=logger, log_every_n_steps=1, **beside)
    head, stem = monitor.lrs["lr-SGD/head"], monitor.lrs["lr-SGD/backbone.stem"]
    expected = {
        "step": ([0.1] * 3 + [0.05] * 6 + [0.01] * 3, [0.0] * 3 + [0.05] * 6 + [0.01] * 3),
        "epoch": ([0.1, 0.05, 0.05, 0.01], [0.0, 0.05, 0.05, 0.01]),
        None: ([0.1] * 3 + [0.05] * 6 + [0.01], [0.0] * 3 + [0.05] * 6 + [0.01]),  # by step, a plateau's by epoch
    }[interval]
    assert (head, stem) == expected


# ------------------------------------------------------------------------------------------------------- checkpoints

MODES: dict[str, dict[str, Any]] = {
    "steps": {"every_n_train_steps": 1},
    "epochs": {"every_n_epochs": 1},
    "validation": {"every_n_epochs": 1, "save_on_train_epoch_end": False},
    "time": {"train_time_interval": timedelta(seconds=0)},
    "last": {"every_n_epochs": 1, "save_last": True},
    "best": {"monitor": "val_loss", "every_n_epochs": 1},
}


class Resumable(DataLoader[Tensor]):
    """Goes on within an epoch."""

    def __init__(self) -> None:
        super().__init__(images(), 8)  # type: ignore[arg-type]
        self.done = self.begin = 0

    def __iter__(self) -> Any:
        self.done, self.begin = self.begin, 0
        for batch in list(super().__iter__())[self.done :]:
            self.done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done % 3}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.begin = state["done"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("extra", ["plain", "ema", "accumulation", "limits"])
def test_a_run_goes_on_from_any_checkpoint_of_any_mode_by_the_same_numbers(
    mode: str, extra: str, tmp_path: Path
) -> None:
    """At every step, on the last one of a stage of steps too; each event comes once in the course."""
    stages = [
        Stage("head", ["head"], steps=4, lr=0.1, lr_scheduler="cosine"),
        Stage("top", ["top"], epochs=1, lr=0.1),
        Stage("all", ["all"], steps=4, lr=0.05, lr_scheduler={"_target_": "torch.optim.lr_scheduler.OneCycleLR"}),
        Stage("more", epochs=1, lr=0.02, optimizer_state="reset"),
    ]
    settings: dict[str, Any] = {"ema": 0.5} if extra == "ema" else {"max_steps": 99} if extra == "limits" else {}

    def more() -> list[Callback]:
        return [GradientAccumulationScheduler({0: 1, 1: 2, 3: 1})] if extra == "accumulation" else []

    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, auto_insert_metric_name=False, **MODES[mode])
    whole, trace = Program(), Trace()
    trainer = fit(
        whole, stages, trace, keep, *more(), data=(Resumable(), loader(8)), enable_checkpointing=True, **settings
    )
    assert [event.split()[0] for event in trace.events] == [name for s in stages for name in (s.name, s.name)]
    paths = sorted((p for p in tmp_path.glob("*.ckpt") if p.stem.isdecimal()), key=lambda path: int(path.stem))
    assert len(paths) >= (4 if mode != "steps" else trainer.global_step - 1)
    for path in paths:
        module, rest = Program(), Trace()
        again = fit(module, stages, rest, *more(), data=(Resumable(), loader(8)), ckpt_path=path, **settings)
        step = int(path.stem)
        assert rest.rates == trace.rates[step:], path
        assert again.global_step == trainer.global_step
        assert rest.validated == [at for at in trace.validated if at > step or at in rest.validated]
        assert mode not in ("steps", "time") or step in rest.validated or step not in trace.validated
        assert_equal(module, whole, 0.0)
        at_end = [e for e in trace.events if e.endswith(f"ends at {step}")]
        before = [e for e in trace.events if int(e.split()[-1]) < step or (e in at_end and e not in rest.events)]
        starts = [e for e in trace.events if e.endswith(f"starts at {step}") and e not in rest.events]
        assert [*before, *starts, *rest.events] == trace.events, path


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_epoch_end"])
def test_a_checkpoint_on_an_exception_can_be_gone_on_from(hook: str, tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 2 and hook == "on_train_epoch_start":
                raise RuntimeError("somebody's")

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == 1 and hook == "on_train_epoch_end":
                raise RuntimeError("somebody's")

    keep = ModelCheckpoint(
        tmp_path, "{step}", save_on_exception=True, auto_insert_metric_name=False, every_n_epochs=99
    )
    with pytest.raises(RuntimeError, match="somebody's"):
        fit(Program(), STAGES, keep, Fails(), enable_checkpointing=True)
    module, plain = Program(), Program()
    fit(module, STAGES, ckpt_path=next(tmp_path.glob("*.ckpt")))
    loop(plain, [(HEAD, 3), (ALL, 6)])
    assert_equal(module, plain)


# ----------------------------------------------------------------------------------------------------------- clipping

CLIPPED = [
    Stage("head", ["head"], lr=0.1),
    Stage("all", ["all"], epochs=2, lr=0.05, gradient_clip_val=0.1),
    Stage("free", steps=2, lr=0.05, gradient_clip_val=0),
    Stage("own", steps=2, lr=0.05),
]


class Clips(Program):
    """What its hook is told of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[float | None] = []

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any, gradient_clip_algorithm: Any
    ) -> None:
        self.told.append(gradient_clip_val)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)


def test_a_stage_clips_as_it_says_and_others_as_the_trainer_does() -> None:
    limits, norms = [0.2] * 3 + [0.1] * 6 + [math.inf] * 2 + [0.2] * 2, []

    def clip(optimizer: SGD) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(nn.utils.clip_grad_norm_(parameters, limits[len(norms)])))

    module, plain = Clips(), Program()
    trainer = fit(module, CLIPPED, gradient_clip_val=0.2)
    loop(plain, [(HEAD, 3), (ALL, 6), (ALL, 2), None, (ALL, 2)], before_step=clip)
    assert_equal(module, plain)
    assert sum(norm > limit for norm, limit in zip(norms, limits, strict=True)) > 3  # else little was clipped
    assert module.told == [0.2] * 3 + [0.1] * 6 + [0] * 2 + [0.2] * 2
    assert trainer.gradient_clip_val == 0.2


def test_a_stage_goes_on_clipping_and_what_the_trainer_has_comes_back_from_an_exception(tmp_path: Path) -> None:
    whole, keep = Clips(), ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, auto_insert_metric_name=False)
    fit(whole, CLIPPED, keep, enable_checkpointing=True)
    again = Clips()
    fit(again, CLIPPED, ckpt_path=tmp_path / "6.ckpt")
    assert again.told == [0.1] * 3 + [0] * 2 + [None] * 2
    assert_equal(again, whole, 0.0)
    edited = [*CLIPPED[:1], Stage("all", ["all"], epochs=2, lr=0.05, gradient_clip_val=9), *CLIPPED[2:]]
    with pytest.raises(ScheduleError, match=r"stage all: gradient_clip_val is 9\.0, was 0\.1"):
        fit(Clips(), edited, ckpt_path=tmp_path / "6.ckpt")

    class Breaks(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.gradient_clip_val == 0.1:
                raise ValueError

    trainer = Trainer(callbacks=[StagedUnfreezing(CLIPPED), Breaks()], gradient_clip_val=0.2, **QUIET)
    with pytest.raises(ValueError):  # noqa: PT011
        trainer.fit(Clips(), loader(), loader(8))
    assert trainer.gradient_clip_val == 0.2


def test_a_plan_of_before_there_was_a_setting_is_gone_on_with(tmp_path: Path) -> None:
    fit(Program(), STAGES, ModelCheckpoint(tmp_path, "last"), enable_checkpointing=True, max_epochs=1)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    for stage in saved["callbacks"]["StagedUnfreezing"]["plan"]["stages"]:
        del stage["gradient_clip_val"]
    torch.save(saved, tmp_path / "last.ckpt")
    assert fit(Program(), STAGES, ckpt_path=tmp_path / "last.ckpt").global_step == 9


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_a_fused_optimizer_that_lightning_does_not_clip_is_refused_by_name(precision: Any) -> None:
    class Fused(Program):
        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), lr=1.0, fused=True)

    if precision == "32-true":
        fit(Fused(), CLIPPED, precision=precision)
        return
    with pytest.raises(
        ScheduleError, match="stage all clips gradients, which Lightning refuses for a fused optimizer"
    ):
        fit(Fused(), CLIPPED, precision=precision)


# ------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (lambda: StochasticWeightAveraging(1e-2), "StochasticWeightAveraging sets rates of its own"),
        (WeightAveraging, r"WeightAveraging keeps weights that stages do not know of; say ema=0\.999 instead"),
        (EMAWeightAveraging, r"EMAWeightAveraging keeps weights that stages do not know of; say ema=0\.999 instead"),
        (LearningRateFinder, "LearningRateFinder looks for one rate, stages have several"),
        (BatchSizeFinder, "BatchSizeFinder trains with other batches first"),
        (BackboneFinetuning, "BackboneFinetuning opens and freezes layers, too; leave one of the two out"),
    ],
)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_callback_that_moves_weights_rates_or_layers_is_refused_by_name(
    callback: Callable[[], Callback], message: str, place: str
) -> None:
    class Own(Program):
        batch_size = 8  # which a finder may set

        def train_dataloader(self) -> Any:
            return loader()

    other, module = callback(), Own()
    before = module.head.weight.clone()
    trainer = Trainer(
        callbacks=[other, StagedUnfreezing(STAGES)] if place == "before" else [StagedUnfreezing(STAGES), other],
        **QUIET,
    )
    with pytest.raises(ScheduleError, match=message):
        trainer.fit(module)
    assert torch.equal(module.head.weight, before)


def test_a_second_schedule_is_refused() -> None:
    class Another(StagedUnfreezing): ...

    with pytest.raises(ScheduleError, match="two schedules stand in one Trainer; put their stages into one"):
        fit(Program(), STAGES, Another(STAGES))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: LBFGS(list(p)), "LBFGS has one rate for all parameters, stages have several"),
        (lambda p: SGD([*p][:-1], lr=1.0), "1 parameters are in no optimizer group"),
    ],
)
def test_an_optimizer_without_groups_of_its_own_is_refused_by_name(make: Any, message: str) -> None:
    class Own(Program):
        def configure_optimizers(self) -> Any:
            return make(self.parameters())

    with pytest.raises(ScheduleError, match=message):
        fit(Own(), STAGES)


def test_a_sharded_optimizer_is_refused_by_name() -> None:
    optimizer = ZeroRedundancyOptimizer.__new__(ZeroRedundancyOptimizer)
    trainer = Mock(optimizers=[optimizer], lr_scheduler_configs=[])
    with pytest.raises(ScheduleError, match="ZeroRedundancyOptimizer divides parameters among processes"):
        neighbours.check_optimizer(trainer, Program())


def test_fused_optimizers_in_fp16_are_refused_where_a_stage_looks_at_gradients() -> None:
    plan = Mock(
        stages=[Mock(is_watched=False, l2_sp=0.1, lr_scale=None, epochs=1, until=None, gradient_clip_val=None)]
    )
    plan.stages[0].name = "a"
    trainer = Mock(min_epochs=0, barebones=False, optimizers=[Mock(_step_supports_amp_scaling=True)])
    with pytest.raises(
        ScheduleError, match="stage a looks at gradients, which a fused optimizer in fp16 keeps scaled"
    ):
        neighbours.check_plan(trainer, plan)
