"""The plan of a schedule on a model, or of a whole configuration; nothing is read or trained."""

from dataclasses import asdict, replace

import torch
from torch import nn

from stagetune.config.monitor import watched
from stagetune.config.schema import Config
from stagetune.config.settings import NoLoss
from stagetune.config.validate import validate
from stagetune.errors import ConfigError
from stagetune.run.build import build_task, came_frozen, check_targets
from stagetune.schedule.load import Given, load_schedule
from stagetune.schedule.model import Model
from stagetune.schedule.network import describe
from stagetune.schedule.plan import Plan
from stagetune.schedule.resolve import make_plan as resolve

CLASSES = 10  # a classifier's head is counted for so many, since no data is read


def make_plan(schedule: Given | Config, model: nn.Module | Model | None = None) -> Plan:
    """What each stage opens, in which parameter groups, at which learning rates.

    Args:
        schedule: what `load_schedule` takes, such as a preset's name; or a whole configuration, which says the model.
        model: the module that will be trained, with its pretrained part under `backbone`.

    Returns:
        The plan. `str(plan)` is it as a table.

    Raises:
        ScheduleError: for anything in the schedule that the model cannot do.
        ConfigError: for a configuration whose model cannot be built.

    >>> from stagetune import compose
    >>> plan = make_plan(compose(["schedule=head_only", "model=resnet18"]))
    >>> plan.stages[0].open_blocks, plan.total_parameters
    (('head',), 11181642)
    """
    if isinstance(schedule, Config) == (model is not None):
        raise TypeError("make_plan: give a schedule and a model, or a configuration alone, which says both")
    if isinstance(schedule, Config):
        return plan_of(validate(asdict(schedule)))  # a program may have changed it
    assert model is not None
    return resolve(load_schedule(schedule), model if isinstance(model, Model) else describe(model))


def plan_of(config: Config) -> Plan:
    """The plan of the run that a configuration asks for. Raises `ConfigError` and `ScheduleError`."""
    check_targets(config)
    with torch.device("meta"):  # shapes without memory
        backbone = config.model.build(config.input().size)
        try:
            task = build_task(config, backbone, CLASSES)
        except ConfigError:
            if config.loss.task is not None:
                raise
            # one of somebody's own may be made for as many classes as the data has, which is not known here
            task = build_task(replace(config, loss=NoLoss(distance=config.loss.measure())), backbone, CLASSES)
    return resolve(watched(config), describe(task, came_frozen=came_frozen(config)))
