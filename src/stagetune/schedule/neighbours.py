"""What of a Trainer, its callbacks and a module's optimizer does not go with stages, said before training.

docs/schedules.md has the table of what is right beside a schedule and what is refused.
"""

import math
from collections.abc import Callable

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BaseFinetuning,
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.optim import LBFGS, Optimizer

from stagetune.errors import ScheduleError
from stagetune.schedule.plan import Plan, PlannedStage
from stagetune.seams import callbacks_of

REFUSED: tuple[tuple[type[Callback], str], ...] = (
    (StochasticWeightAveraging, "sets rates of its own and averages over stages; leave it out, or say ema=0.999"),
    (WeightAveraging, "keeps weights that stages do not know of; say ema=0.999 instead"),
    (LearningRateFinder, "looks for one rate, stages have several; find it without the schedule"),
    (BatchSizeFinder, "trains with other batches first; find the size without the schedule"),
    (BaseFinetuning, "opens and freezes layers, too; leave one of the two out"),
)


def check_strategy(trainer: Trainer) -> None:
    """Raise `ScheduleError` for strategies whose parameters cannot be freed one by one."""
    kind = type(trainer.strategy)
    if not issubclass(kind, SingleDeviceStrategy | DDPStrategy) or issubclass(kind, DeepSpeedStrategy):
        raise ScheduleError(f"{kind.__name__} binds parameters together that stages free singly; use 'ddp'")


def check_callbacks(trainer: Trainer, ours: Callback, kind: type[Callback]) -> None:
    """Raise `ScheduleError` for callbacks that move weights, rates or layers on their own."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, kind) and callback is not ours:
            raise ScheduleError("two schedules stand in one Trainer; put their stages into one")
        for other, reason in REFUSED:
            if isinstance(callback, other):
                raise ScheduleError(f"{type(callback).__name__} {reason}")


def check_optimizer(trainer: Trainer, pl_module: LightningModule) -> Optimizer:
    """The module's one optimizer; raises `ScheduleError` for another number, for schedulers, and for kinds that
    have no groups of their own."""
    if not pl_module.automatic_optimization:
        raise ScheduleError(
            f"{type(pl_module).__name__} optimizes by hand (automatic_optimization=False), where nobody says when a "
            "step is done; let Lightning do it"
        )
    if len(trainer.optimizers) != 1 or trainer.lr_scheduler_configs:
        raise ScheduleError("configure_optimizers must give one optimizer and no scheduler; stages bring theirs")
    if is_overridden("lr_scheduler_step", pl_module):
        raise ScheduleError(
            f"{type(pl_module).__name__} steps schedulers by an lr_scheduler_step of its own; leave it out"
        )
    (optimizer,) = trainer.optimizers
    kind = type(optimizer)
    if isinstance(optimizer, LBFGS):
        raise ScheduleError("LBFGS has one rate for all parameters, stages have several; use SGD or AdamW")
    if kind.__module__.startswith("torch.distributed"):
        raise ScheduleError(
            f"{kind.__name__} divides parameters among processes as it is made; use the optimizer itself"
        )
    return optimizer


def check_plan(trainer: Trainer, plan: Plan) -> None:
    """Raise `ScheduleError` for lengths and metrics that a Trainer's settings rule out."""
    shortest = sum(_fewest(trainer, stage) for stage in plan.stages)
    if (trainer.min_epochs or 0) > shortest:
        raise ScheduleError(
            f"Trainer(min_epochs={trainer.min_epochs}): the schedule may end after {shortest}; let it be longer"
        )
    watched = [stage for stage in plan.stages if stage.is_watched]
    if trainer.barebones and watched:
        raise ScheduleError(
            f"stage {watched[0].name} looks at {watched[0].monitor}, which Trainer(barebones=True) does not log"
        )
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    fused = any(getattr(optimizer, "_step_supports_amp_scaling", False) for optimizer in trainer.optimizers)
    plugin = type(trainer.precision_plugin)
    cannot_clip = issubclass(plugin, MixedPrecision) and plugin.clip_gradients is MixedPrecision.clip_gradients
    for stage in plan.stages:
        if fused and cannot_clip and stage.gradient_clip_val:
            raise ScheduleError(
                f"stage {stage.name} clips gradients, which Lightning refuses for a fused optimizer in "
                f"{trainer.precision}; fused=False"
            )
        if scaler is not None and fused and (stage.l2_sp or stage.lr_scale):
            raise ScheduleError(
                f"stage {stage.name} looks at gradients, which a fused optimizer in fp16 keeps scaled; fused=False"
            )


def check_steps(trainer: Trainer, plan: Plan, steps_in: Callable[[int], int]) -> None:
    """Raise `ScheduleError` if the plan may end before `min_steps`; `steps_in` says how many an epoch takes."""
    shortest = epoch = 0
    for stage in plan.stages:
        epochs = _fewest(trainer, stage)
        shortest += stage.steps or sum(steps_in(epoch + i) for i in range(epochs))
        epoch += epochs
    if (trainer.min_steps or 0) > shortest and math.isfinite(trainer.num_training_batches):
        raise ScheduleError(
            f"Trainer(min_steps={trainer.min_steps}): the schedule may end after {shortest}; let it be longer"
        )


def writes_weights_alone(trainer: Trainer) -> bool:
    """Whether a checkpoint is written of which no callback is told."""
    return any(getattr(callback, "save_weights_only", False) for callback in trainer.checkpoint_callbacks)


def _fewest(trainer: Trainer, stage: PlannedStage) -> int:
    """The epochs that a stage takes at least; patience counts validations."""
    if stage.until is None:
        return stage.epochs or 1
    is_once = getattr(trainer, "val_check_interval", None) == 1.0  # not there where validation comes by time
    return min(stage.until.patience, stage.until.max_epochs) if is_once else 1
