"""A schedule from whatever names one: a preset, a file, a list of stages."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from stagetune.config.convert import typed
from stagetune.config.recipes import expand
from stagetune.config.schedule_file import read_schedule
from stagetune.config.schedule_rules import schedule_rules
from stagetune.config.schema import Schedule, Stage
from stagetune.errors import ScheduleError, did_you_mean

PRESETS = Path(__file__).resolve().parents[3] / "conf" / "schedule"


def as_schedule(
    given: Schedule | Sequence[Stage] | str | Path, monitor: str | None = None, mode: str | None = None
) -> Schedule:
    """The schedule with its stages written out; raises `ScheduleError` with all its problems."""
    if isinstance(given, str | Path):
        schedule = _named(str(given))
    else:
        schedule = given if isinstance(given, Schedule) else Schedule(stages=list(given))
    schedule = replace(schedule, monitor=monitor or schedule.monitor, mode=mode or schedule.mode)
    problems: list[str] = []
    typed(Schedule, asdict(schedule), "", problems)
    if problems := problems or list(schedule_rules(schedule, blocks=None, metrics=None)):
        raise ScheduleError("\n  ".join([f"schedule {schedule.name}:", *problems]))
    return expand(schedule)


def _named(name: str) -> Schedule:
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name in presets:
        return read_schedule(PRESETS / f"{name}.yaml")
    if not name.endswith((".yaml", ".yml")):
        raise ScheduleError(f"there is no schedule {name}; {did_you_mean(name, presets)} Or give a path.yaml")
    return read_schedule(name)
