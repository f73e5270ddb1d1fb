"""A stage's learning-rate scheduler, built afresh over the complete groups."""

import copy
import inspect
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CyclicLR, LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from stagetune.errors import ConfigError, ScheduleError
from stagetune.schedule.groups import settings_of
from stagetune.schedule.plan import Length, PlannedStage
from stagetune.targets import find

LONGEST = 5000  # steps of a scheduler that is tried out
NEVER = sys.maxsize  # a frequency at which Lightning never steps


def build_lr_scheduler(
    stage: PlannedStage,
    optimizer: Optimizer,
    length: Length,
    *,
    done: int = 0,
    values: Callable[[], Sequence[float]] = list,
    scale_of: Callable[[str], float] | None = None,
    saved: Mapping[str, Any] | None = None,
) -> LRSchedulerConfig:
    """The scheduler of a stage over all groups of the optimizer, as Lightning takes it.

    A shape by name is a pure function of the steps done, of `values` and of `scale_of`. A torch class starts at its
    beginning, or goes on from its `saved` state, with the groups as they were loaded.

    Args:
        stage: as planned.
        optimizer: whose groups have the stage's rates.
        length: of the stage, in optimizer steps.
        done: the optimizer steps of the stage so far.
        values: those of the monitored metric so far, one for each validation of the stage.
        scale_of: the factor on the rate of a group of that name.
        saved: the state of such a scheduler.

    Returns:
        The scheduler with its interval and frequency; a plateau's is never stepped by Lightning.

    Raises:
        ScheduleError: if the class cannot be imported or refuses its arguments.
    """
    if not stage.target:

        def factor(group: str) -> Callable[[int], float]:
            return lambda step: stage.lr_factor(length, values(), step) * (scale_of(group) if scale_of else 1.0)

        factors = [factor(group["plan_group"]) for group in optimizer.param_groups]
        return LRSchedulerConfig(LambdaLR(optimizer, factors, last_epoch=done - 1), interval="step")
    assert isinstance(stage.lr_scheduler, Mapping)
    settings = {key: value for key, value in stage.lr_scheduler.items() if key not in ("interval", "frequency")}
    target = load_target(stage.target)
    by_step = stage.lr_scheduler.get("interval", "step" if target in (OneCycleLR, CyclicLR) else "epoch") == "step"
    total = length.steps if by_step else length.epochs
    loaded = settings_of(optimizer)
    for group in optimizer.param_groups:
        group.pop("initial_lr", None)  # of an earlier scheduler, CyclicLR would begin there
    if not (inspect.isclass(target) and issubclass(target, LRScheduler)):
        raise ScheduleError(
            f"stage {stage.name}: lr_scheduler {stage.target}: is no class of torch.optim.lr_scheduler"
        )
    try:
        scheduler = _built(settings, optimizer, total, stage.mode)
    except Exception as error:  # somebody's arguments, perhaps somebody's class
        raise ScheduleError(f"stage {stage.name}: lr_scheduler {stage.target}: {error}") from error
    if saved is not None:
        scheduler.load_state_dict(dict(saved))
        for group, own in zip(optimizer.param_groups, loaded, strict=True):
            group.update(own)
    if isinstance(scheduler, ReduceLROnPlateau):
        if not stage.is_watched:
            raise ScheduleError(
                f"stage {stage.name}: {stage.target} is a plateau scheduler; end its name as torch's does"
            )
        # Lightning would step it after the epoch's checkpoint, and a resumed run would miss that step
        return LRSchedulerConfig(
            scheduler, interval="epoch", frequency=NEVER, reduce_on_plateau=True, monitor=stage.monitor
        )
    frequency = int(stage.lr_scheduler.get("frequency", 1))
    return LRSchedulerConfig(scheduler, interval="step" if by_step else "epoch", frequency=frequency)


def plateau_frequency(stage: PlannedStage) -> int:
    """A plateau scheduler of torch's is stepped by every so many values of the metric."""
    return int(stage.lr_scheduler.get("frequency", 1)) if isinstance(stage.lr_scheduler, Mapping) else 1


def try_out(stage: PlannedStage, optimizer: Optimizer, length: Length) -> None:
    """Build the stage's scheduler and let it run its course, beside the optimizer, which stays as it is.

    Raises:
        ScheduleError: if it refuses its arguments or a step.
    """
    beside = copy.copy(optimizer)  # of the same class, with the same defaults
    beside.param_groups = [{**group, "lr": stage.rates[group["plan_group"]]} for group in optimizer.param_groups]
    config = build_lr_scheduler(stage, beside, length)
    if not stage.target or isinstance(config.scheduler, ReduceLROnPlateau):
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # no optimizer is stepped
            for _ in range(min(length.steps if config.interval == "step" else length.epochs, LONGEST)):
                config.scheduler.step()
    except Exception as error:
        raise ScheduleError(f"stage {stage.name}: lr_scheduler {stage.target}: {error}") from error


def simulate(stage: PlannedStage, steps_per_epoch: int) -> list[list[float]]:
    """The rates [steps][groups] that a torch class gives over a stage, as far as no metric has a say."""
    groups: list[dict[str, Any]] = [
        {"params": [nn.Parameter(torch.zeros(()))], "lr": rate, "plan_group": name}
        for name, rate in stage.rates.items()
    ]
    optimizer = SGD(groups, momentum=0.9)
    length = stage.length(lambda _: steps_per_epoch)
    config = build_lr_scheduler(stage, optimizer, length)
    course = []
    for step in range(1, length.steps + 1):
        course.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        every = config.frequency * (1 if config.interval == "step" else steps_per_epoch)
        if step % every == 0 and not isinstance(config.scheduler, ReduceLROnPlateau):
            with suppress(ValueError):  # OneCycleLR refuses the step after its last
                config.scheduler.step()
    return course


def load_target(path: str) -> Any:
    """What a dotted path names; raises `ScheduleError` if there is no such thing."""
    try:
        return find(path)
    except ConfigError as error:
        raise ScheduleError(f"lr_scheduler._target_={error.problems[0]}") from error


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
