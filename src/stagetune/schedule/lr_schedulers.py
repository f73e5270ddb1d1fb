"""A stage's learning-rate scheduler, built afresh over the complete groups."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, Literal, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from stagetune.errors import ScheduleError
from stagetune.schedule.param_groups import settings_of
from stagetune.schedule.plan import PlannedStage

OWN_STEP = cast(Literal["step", "epoch"], "own")  # an interval at which Lightning does nothing


def bring_lr_scheduler(
    trainer: Trainer,
    stage: PlannedStage,
    first_step: int,
    values: Callable[[], Sequence[float]],
    saved: Mapping[str, Any] | None = None,
) -> None:
    """Give the trainer the scheduler of `stage`, which began at the optimizer step `first_step`.

    A shape by name is a pure function of the steps since then and of `values`, those of the metric so far. A torch
    class starts at its beginning, or goes on from its `saved` state, with the groups as they were loaded. Raises
    `ScheduleError` if it refuses its arguments, and for a stage that counts epochs over data without a length.
    """
    (optimizer,) = trainer.optimizers
    loaded = settings_of(optimizer)
    steps_per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
    config = _build(stage, optimizer, steps_per_epoch, trainer.global_step - first_step, values)
    if saved is not None:
        config.scheduler.load_state_dict(dict(saved))
        for group, settings in zip(optimizer.param_groups, loaded, strict=True):
            group.update(settings)
    trainer.strategy.lr_scheduler_configs = [config]


def _build(
    stage: PlannedStage,
    optimizer: Optimizer,
    steps_per_epoch: float,
    done: int,
    values: Callable[[], Sequence[float]],
) -> LRSchedulerConfig:
    counts_epochs = stage.steps is None and (stage.warmup or stage.lr_scheduler not in ("constant", "plateau"))
    if math.isinf(steps_per_epoch) and counts_epochs:
        raise ScheduleError(f"stage {stage.name} needs the length of an epoch, the data has none; give it steps")
    per_epoch = math.ceil(steps_per_epoch) if math.isfinite(steps_per_epoch) else stage.steps or 1
    if not stage.target:
        return LRSchedulerConfig(
            LambdaLR(optimizer, lambda step: stage.lr_factor(per_epoch, values(), step), last_epoch=done - 1),
            interval="step",
        )
    assert isinstance(stage.lr_scheduler, Mapping)
    settings = {key: value for key, value in stage.lr_scheduler.items() if key != "interval"}
    target = load_target(stage.target)
    by_step = stage.lr_scheduler.get("interval", "step" if target in (OneCycleLR, CyclicLR) else "epoch") == "step"
    steps = stage.total_steps(per_epoch)
    total = steps if by_step else math.ceil(steps / per_epoch)
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)  # of an earlier scheduler, CyclicLR would begin there
    try:
        scheduler = _built(settings, optimizer, total, stage.mode)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ScheduleError(f"stage {stage.name}: lr_scheduler {stage.target}: {error}") from error
    if isinstance(scheduler, ReduceLROnPlateau):
        if not stage.is_watched:
            raise ScheduleError(
                f"stage {stage.name}: {stage.target} is a plateau scheduler; end its name as torch's does"
            )
        # Lightning would step it behind the epoch's checkpoint, and a resumed run would miss that step
        return LRSchedulerConfig(scheduler, interval=OWN_STEP, reduce_on_plateau=True, monitor=stage.monitor)
    return LRSchedulerConfig(scheduler, interval="step" if by_step else "epoch")


def simulate(stage: PlannedStage, steps_per_epoch: int) -> list[list[float]]:
    """The rates [steps][groups] that a torch class gives over a stage, as far as no metric has a say."""
    groups: list[dict[str, Any]] = [
        {"params": [nn.Parameter(torch.zeros(()))], "lr": rate} for rate in stage.rates.values()
    ]
    optimizer = SGD(groups, momentum=0.9)
    config = _build(stage, optimizer, steps_per_epoch, 0, list)
    course = []
    for step in range(1, stage.total_steps(steps_per_epoch) + 1):
        course.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        moves = config.interval == "step" or step % steps_per_epoch == 0
        if moves and not isinstance(config.scheduler, ReduceLROnPlateau):
            with suppress(ValueError):  # OneCycleLR refuses the step behind its last
                config.scheduler.step()
    return course


def load_target(path: str) -> Any:
    """What a dotted path names; raises `ScheduleError` if there is no such thing."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ScheduleError(f"lr_scheduler._target_={path}: cannot be imported") from None


def _built(settings: Any, optimizer: Optimizer, total: int, mode: str | None) -> Any:
    """Settings with every `_target_` in them built; schedulers get the optimizer, and what only the stage knows."""
    if isinstance(settings, Mapping) and "_target_" in settings:
        target = load_target(str(settings["_target_"]))
        arguments = {
            key: _built(value, optimizer, total, mode) for key, value in settings.items() if key != "_target_"
        }
        if not (inspect.isclass(target) and issubclass(target, LRScheduler)):
            return partial(target, **arguments) if arguments.pop("_partial_", False) else target(**arguments)
        known: dict[str, Any] = {
            "total_steps": total,
            "T_max": total,
            "max_lr": [group["lr"] for group in optimizer.param_groups],
        }
        if issubclass(target, ReduceLROnPlateau):
            known["mode"] = mode
        accepted = inspect.signature(target).parameters
        if "epochs" in arguments and "steps_per_epoch" in arguments:
            del known["total_steps"]
        return target(optimizer, **{key: value for key, value in known.items() if key in accepted} | arguments)
    if isinstance(settings, Mapping):
        return {key: _built(value, optimizer, total, mode) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [_built(value, optimizer, total, mode) for value in settings]
    return settings
