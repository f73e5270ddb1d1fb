"""What a run watches: one metric in one direction, for best.ckpt and for its stages. No torch but of own metrics."""

from collections.abc import Iterator
from dataclasses import replace

from stagetune.config.schema import Config
from stagetune.errors import ConfigError
from stagetune.schedule.spec import Schedule, Stage, mode_of
from stagetune.targets import find


def monitor_mode(config: Config) -> str | None:
    """`min` or `max`: which values of `task.monitor` are good, as is said, as its class says, or by its name."""
    task, schedule = config.task, config.schedule
    said = schedule.mode if schedule.monitor in (None, task.monitor) else None
    return task.mode or said or _mode_of(config, task.monitor)


def watched(config: Config) -> Schedule:
    """The schedule with the metric that its stages look at, and its direction, where it does not say them."""
    schedule, task = config.schedule, config.task
    monitor = schedule.monitor or task.monitor
    mode = monitor_mode(config) if monitor == task.monitor else schedule.mode or _mode_of(config, monitor)
    return replace(schedule, monitor=monitor, mode=mode, stages=[_filled(stage, config) for stage in schedule.stages])


def monitor_problems(config: Config) -> Iterator[str]:
    """What is wrong with what is watched."""
    task, schedule = config.task, config.schedule
    if monitor_mode(config) is None:
        yield f"task.monitor={task.monitor}: is a high one good? say task.mode=max, or min"
    is_one = schedule.monitor in (None, task.monitor)
    if is_one and task.mode and schedule.mode and task.mode != schedule.mode:
        yield f"task.mode={task.mode} and schedule.mode={schedule.mode}: are of one metric; leave one of them out"


def _filled(stage: Stage, config: Config) -> Stage:
    """The stage, whose condition may name a metric of its own."""
    until = stage.until
    if until is None or until.monitor is None or until.mode is not None:
        return stage
    is_tasks = until.monitor == config.task.monitor
    mode = monitor_mode(config) if is_tasks else _mode_of(config, until.monitor)
    return replace(stage, until=replace(until, mode=mode))


def _mode_of(config: Config, metric: str) -> str | None:
    """Which values of a metric are good, as the class of one of somebody's own says, else by its name."""
    settings = config.metrics.get(metric.removeprefix("val/"), {})
    try:
        says = getattr(find(str(settings["_target_"])), "higher_is_better", None) if "_target_" in settings else None
    except ConfigError:
        return "max"  # it does not exist, which is said before anything is built
    if isinstance(says, bool):  # a property of its instances is none
        return "max" if says else "min"
    return mode_of(metric)
