"""How a stage goes on and ends: lengths in steps and by metric, and schedulers of learning rates."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, lr_scheduler
from torch.utils.data import DataLoader

from programs import Sampled
from stagetune.errors import ScheduleError
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.progress import is_best, plateau_factor, shape, stalled
from stagetune.schedule.spec import Schedule, Stage, Until

LR = "torch.optim.lr_scheduler"
values = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5, float("nan")]), max_size=12)


class Module(LightningModule):
    """A backbone of two layers under a head; its validation metric follows `course`, epoch by epoch."""

    def __init__(self, course: Sequence[float] = ()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)
        self.course = course

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.head(self.backbone(batch)).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if self.course:
            self.log("val_loss", torch.tensor(self.course[self.current_epoch]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return SGD(self.parameters(), lr=1.0, momentum=0.9)


class Trace(Callback):
    """Per batch: the stage, and the learning rate of each group."""

    def __init__(self, unfreezing: StagedUnfreezing) -> None:
        self.unfreezing = unfreezing
        self.stages: list[str] = []
        self.rates: list[dict[str, float]] = []
        self.epochs: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.stages.append(self.unfreezing.stage.name)
        self.rates.append({group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups})
        self.epochs.append(trainer.current_epoch)


def fit(
    module: LightningModule, *stages: Stage, batches: int = 4, more: Sequence[Callback] = (), **settings: Any
) -> tuple[Trainer, Trace]:
    ckpt_path = settings.pop("ckpt_path", None)
    unfreezing = StagedUnfreezing(Schedule(stages=list(stages), leave_frozen=True, monitor="val_loss"))
    trace = Trace(unfreezing)
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in more)
    trainer = Trainer(
        accelerator="cpu", callbacks=[unfreezing, trace, *more], logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, enable_checkpointing=keeps, **settings,
    )  # fmt: skip
    images = torch.rand(8 * batches, 3, generator=torch.Generator().manual_seed(0))
    trainer.fit(module, Sampled(images, 8), DataLoader(images[:8], 8), ckpt_path=ckpt_path)
    return trainer, trace


def test_a_stage_of_so_many_steps_cuts_its_last_epoch_short_and_validates() -> None:
    module = Module([0.5, 0.4, 0.3, 0.2])
    trainer, trace = fit(
        module, Stage("a", ["head"], steps=6, lr=0.1), Stage("b", ["all"], epochs=2, lr=0.1), batches=4
    )
    assert trace.stages == ["a"] * 6 + ["b"] * 8
    assert trace.epochs == [0] * 4 + [1] * 2 + [2] * 4 + [3] * 4
    assert trainer.callback_metrics["val_loss"] == pytest.approx(0.2)
    assert trainer.current_epoch == 4


def test_steps_are_those_of_the_optimizer() -> None:
    _, trace = fit(Module(), Stage("a", ["all"], steps=3, lr=0.1), batches=4, accumulate_grad_batches=2)
    assert len(trace.stages) == 6


def test_a_run_of_steps_alone_ends_after_them() -> None:
    trainer, trace = fit(Module(), Stage("a", ["head"], steps=2, lr=0.1), Stage("b", ["all"], steps=3, lr=0.1))
    assert trace.stages == ["a", "a", "b", "b", "b"]
    assert trainer.global_step == 5


def test_a_stage_ends_when_its_metric_stalls_and_the_next_takes_over() -> None:
    course = [0.5, 0.4, 0.45, 0.41, 0.3, 0.3, 0.3, 0.2]
    until = Until(patience=2, max_epochs=9)
    trainer, trace = fit(
        Module(course), Stage("a", ["head"], until=until, lr=0.1), Stage("b", ["all"], until=until, lr=0.1), batches=1
    )
    assert trace.stages == ["a"] * 4 + ["b"] * 3  # b: 0.3 is its first, then twice no better
    assert trainer.current_epoch == 7


def test_a_stage_lasts_no_longer_than_max_epochs() -> None:
    until = Until("val_loss", "min", patience=5, max_epochs=3)
    _, trace = fit(Module([0.5, 0.4, 0.3, 0.2]), Stage("a", ["all"], until=until, lr=0.1), batches=1)
    assert trace.stages == ["a"] * 3


@given(values, st.sampled_from(["min", "max"]), st.integers(1, 4), st.sampled_from([0.0, 0.15]))
def test_a_metric_stalls_when_lightnings_early_stopping_says_so(
    course: list[float], mode: str, patience: int, min_delta: float
) -> None:
    theirs = EarlyStopping("x", mode=mode, patience=patience, min_delta=min_delta, check_finite=False)
    stops = any(theirs._evaluate_stopping_criteria(torch.tensor(value))[0] for value in course)
    assert stalled(course, mode, patience=patience, min_delta=min_delta) == stops


@given(values.filter(lambda course: not any(value != value for value in course)), st.sampled_from(["min", "max"]))
def test_plateaus_are_counted_as_torch_counts_them(course: list[float], mode: str) -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, mode, patience=2)
    for value in course:
        theirs.step(value)
    # torch ignores a reduction below its eps of 1e-8
    assert plateau_factor(course, mode) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-7)


@given(values, st.sampled_from(["min", "max"]))
def test_the_best_value_is_the_first_of_the_best(course: list[float], mode: str) -> None:
    known = [value for value in course if value == value]
    best = (min if mode == "min" else max)(known) if known else None
    found = [i for i in range(len(course)) if is_best(course[: i + 1], mode)]
    assert (course[found[-1]] if found else None) == best
    assert not found or course.index(course[found[-1]]) == found[-1]


@given(st.integers(4, 60))
def test_one_cycle_is_torchs_without_momentum(steps: int) -> None:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, cycle_momentum=False)
    for step in range(steps):
        assert shape("one_cycle", step, steps) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


def test_the_next_stage_begins_from_the_weights_that_were_best() -> None:
    class Weights(Callback):
        def __init__(self) -> None:
            self.after: list[Tensor] = []
            self.before: list[Tensor] = []

        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.before.append(pl_module.head.weight.detach().clone())  # type: ignore[union-attr, operator]

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.after.append(pl_module.head.weight.detach().clone())  # type: ignore[union-attr, operator]

    weights = Weights()
    module = Module([0.5, 0.3, 0.4, 0.45, 0.2, 0.3])
    fit(
        module,
        Stage("a", ["head"], epochs=4, restore_best=True, lr=0.1),
        Stage("b", ["all"], epochs=2, restore_best=True, lr=0.1),
        more=[weights],
    )
    assert torch.equal(weights.before[4], weights.after[1])
    assert not torch.equal(weights.before[4], weights.after[3])
    assert torch.equal(module.head.weight, weights.after[4])  # the last stage goes back to its best, too


def test_a_metric_that_is_not_measured_is_named_with_those_that_are() -> None:
    until = Until("val_los", "min")
    with pytest.raises(ScheduleError, match="stage a looks at val_los, measured are: val_loss"):
        fit(Module([0.5]), Stage("a", ["all"], until=until, lr=0.1))
    unfreezing = StagedUnfreezing([Stage("a", ["all"], until=Until(), lr=1.0)])
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[unfreezing], enable_checkpointing=False)
    with pytest.raises(ScheduleError, match=r"stage a looks at a metric; name it, schedule\.monitor=val_loss"):
        trainer.fit(Module(), DataLoader(torch.rand(8, 3), 8))


SCHEDULERS: dict[str, tuple[dict[str, Any], Callable[[Any, int], Any], bool]] = {
    "one_cycle": (
        {"_target_": f"{LR}.OneCycleLR"},
        lambda o, n: lr_scheduler.OneCycleLR(o, [g["lr"] for g in o.param_groups], total_steps=n),
        True,
    ),
    "cyclic": (
        {"_target_": f"{LR}.CyclicLR", "base_lr": 0.01, "step_size_up": 3},
        lambda o, n: lr_scheduler.CyclicLR(o, 0.01, [g["lr"] for g in o.param_groups], step_size_up=3),
        True,
    ),
    "step": ({"_target_": f"{LR}.StepLR", "step_size": 1}, lambda o, n: lr_scheduler.StepLR(o, 1), False),
    "warm_restarts": (
        {"_target_": f"{LR}.CosineAnnealingWarmRestarts", "T_0": 3, "interval": "step"},
        lambda o, n: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
        True,
    ),
    "polynomial": (
        {"_target_": f"{LR}.PolynomialLR", "total_iters": 8, "interval": "step"},
        lambda o, n: lr_scheduler.PolynomialLR(o, 8),
        True,
    ),
    "cosine_annealing": (
        {"_target_": f"{LR}.CosineAnnealingLR", "interval": "step"},
        lambda o, n: lr_scheduler.CosineAnnealingLR(o, n),
        True,
    ),
    "lambda": (
        {"_target_": f"{LR}.LambdaLR", "lr_lambda": {"_target_": "test_course.halved", "_partial_": True, "by": 2}},
        lambda o, n: lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
        False,
    ),
    "sequential": (
        {
            "_target_": f"{LR}.SequentialLR",
            "schedulers": [
                {"_target_": f"{LR}.LinearLR", "start_factor": 0.25, "total_iters": 3},
                {"_target_": f"{LR}.ExponentialLR", "gamma": 0.5},
            ],
            "milestones": [3],
            "interval": "step",
        },
        lambda o, n: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o, 0.25, total_iters=3), lr_scheduler.ExponentialLR(o, 0.5)], [3]
        ),
        True,
    ),
}


def halved(step: int, by: int) -> float:
    return by**-step


@pytest.mark.parametrize("name", SCHEDULERS)
def test_any_torch_scheduler_moves_all_groups_and_starts_afresh_in_each_stage(name: str) -> None:
    """Groups added in mid-run never move under cosine, and crash LambdaLR, OneCycle, plateau (PL #12141)."""
    spec, theirs, by_step = SCHEDULERS[name]
    stages = [
        Stage(n, o, epochs=2, lr=0.1, lr_decay=0.5, lr_scheduler=spec) for n, o in (("a", ["head"]), ("b", ["all"]))
    ]
    _, trace = fit(Module(), *stages)
    for stage, begin in ((0, 0), (1, 8)):
        rates = {"head": 0.1, "backbone.1": 0.05 if stage else 0.0, "backbone.0": 0.025 if stage else 0.0}
        seen = trace.rates[begin]
        groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rates[group.split("/")[0]]} for group in seen]
        optimizer = SGD(groups, momentum=0.9)
        scheduler = theirs(optimizer, 8)
        for step in range(8):
            assert list(trace.rates[begin + step].values()) == pytest.approx(
                [g["lr"] for g in optimizer.param_groups]
            )
            optimizer.step()
            if (by_step or step == 3) and step < 7:
                scheduler.step()


def test_a_reduce_on_plateau_of_torchs_own_is_stepped_by_the_metric() -> None:
    spec = {"_target_": f"{LR}.ReduceLROnPlateau", "patience": 0, "factor": 0.5}
    _, trace = fit(Module([0.5, 0.6, 0.4, 0.4]), Stage("a", ["all"], epochs=4, lr=1.0, lr_scheduler=spec), batches=1)
    assert [rates["head"] for rates in trace.rates] == [1.0, 1.0, 0.5, 0.5]


def test_plateau_lowers_the_rates_from_the_first_step_of_the_next_epoch() -> None:
    course = [0.5, 0.5, 0.5, 0.5, 0.4, 0.3]
    _, trace = fit(Module(course), Stage("a", ["all"], epochs=6, lr=1.0, lr_scheduler="plateau"), batches=2)
    assert [rates["head"] for rates in trace.rates] == pytest.approx([1.0] * 8 + [0.1] * 4)


def test_momentum_that_a_scheduler_moved_is_the_optimizers_own_in_the_next_stage() -> None:
    spec = {"_target_": f"{LR}.CyclicLR", "base_lr": 0.01, "step_size_up": 3}
    trainer, _ = fit(Module(), Stage("a", ["head"], steps=3, lr=0.1, lr_scheduler=spec), Stage("b", ["all"], lr=0.1))
    for group in trainer.optimizers[0].param_groups:
        assert group["momentum"] == 0.9
        assert not {"base_momentum", "max_momentum"} & group.keys()


def test_a_scheduler_that_refuses_its_arguments_says_so() -> None:
    spec = {"_target_": f"{LR}.StepLR", "gama": 0.1}
    with pytest.raises(ScheduleError, match=r"stage a: lr_scheduler torch.optim.lr_scheduler.StepLR: .*gama"):
        fit(Module(), Stage("a", ["all"], lr=0.1, lr_scheduler=spec))
    with pytest.raises(ScheduleError, match=r"lr_scheduler._target_=torch.optim.lr_scheduler.StepLr: cannot be imp"):
        fit(Module(), Stage("a", ["all"], lr=0.1, lr_scheduler={"_target_": f"{LR}.StepLr"}))


def test_warm_up_may_be_counted_in_steps() -> None:
    stage = Stage("a", ["all"], steps=6, lr=1.0, warmup_steps=3, lr_scheduler="linear")
    _, trace = fit(Module(), stage)
    assert [rates["head"] for rates in trace.rates] == pytest.approx([0.25, 0.5, 0.75, 1, 2 / 3, 1 / 3])


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    ["cosine", "plateau", *(SCHEDULERS[name][0] for name in ("one_cycle", "cyclic", "step", "sequential", "lambda")),
     {"_target_": f"{LR}.ReduceLROnPlateau", "patience": 0}, {"_target_": f"{LR}.MultiStepLR", "milestones": [1]}],
    ids=lambda spec: spec if isinstance(spec, str) else spec["_target_"].rpartition(".")[2],
)  # fmt: skip
@pytest.mark.parametrize(
    "every",
    [{"every_n_epochs": 1}, {"every_n_epochs": 1, "save_on_train_epoch_end": False}, {"every_n_train_steps": 3}],
    ids=["at the epoch's end", "after validation", "within the epoch"],
)
def test_a_resumed_run_has_the_rates_of_one_that_was_never_stopped(
    spec: Any, every: dict[str, Any], tmp_path: Path
) -> None:
    """In the stage and at its boundary, with patience counted over the restart; loaded with weights_only."""
    stages = (
        Stage("a", ["head"], until=Until(patience=2, max_epochs=5), lr=0.1, lr_scheduler=spec, restore_best=True),
        Stage("b", ["all"], epochs=2, lr=0.1, lr_scheduler=spec),
    )
    course = [0.5, 0.3, 0.4, 0.5, 0.6, 0.6, 0.7]
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, auto_insert_metric_name=False, **every)
    whole, trace = fit(Module(course), *stages, more=[keep])
    assert trace.stages == ["a"] * 16 + ["b"] * 8
    paths = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem))
    for path in paths:
        step = int(path.stem)
        module = Module(course)
        resumed, rest = fit(module, *stages, ckpt_path=path, more=[ModelCheckpoint(tmp_path / "more")])
        assert rest.stages == trace.stages[step:]
        assert rest.rates == trace.rates[step:]
        assert resumed.current_epoch == whole.current_epoch
        if "every_n_epochs" in every:  # this loader cannot go on within an epoch
            for name, value in whole.lightning_module.state_dict().items():
                assert torch.equal(module.state_dict()[name], value), name
        torch.load(path, weights_only=True)
