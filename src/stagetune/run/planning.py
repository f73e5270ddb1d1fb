"""The plan of a run without its data: what a schedule comes to on the model that the configuration names."""

import torch

from stagetune.config.schema import Config
from stagetune.run.build import build_network, build_task, came_frozen, check_targets
from stagetune.schedule.network import describe
from stagetune.schedule.plan import Plan
from stagetune.schedule.resolve import make_plan

CLASSES = 10  # a classifier's head is counted for so many, since no data is read


def plan_of(config: Config) -> Plan:
    """Nothing is read or trained. Raises `ConfigError` and `ScheduleError` for what cannot be built."""
    check_targets(config)
    with torch.device("meta"):  # shapes without memory
        task = build_task(config, build_network(config.model, config.data.image_size), CLASSES, {})
    return make_plan(config.schedule, describe(task, came_frozen=came_frozen(config)))
