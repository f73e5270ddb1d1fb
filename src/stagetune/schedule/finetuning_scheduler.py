"""finetuning-scheduler's explicit schedules, put into stages: what they say is done, or refused by name. No torch.

Written for finetuning-scheduler 2.14; docs/schedules.md has the table of what each key comes to.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from stagetune.errors import ScheduleError
from stagetune.schedule.spec import Schedule, Stage, Until

BASE_MAX_LR = 1e-5  # the rate of a phase that names none
NO_LIMIT = 1000  # epochs: what Lightning's Trainer takes if nobody says
PHASE_KEYS = ("params", "max_transition_epoch", "lr", "new_lr_scheduler")
LR_SCHEDULER_KEYS = ("lr_scheduler_init", "pl_lrs_cfg", "init_pg_lrs")
CONFIG_KEYS = ("interval", "frequency", "monitor", "name")


def is_phases(content: Mapping[Any, Any]) -> bool:
    """Whether the mapping is keyed by phase numbers, which may be quoted."""
    return bool(content) and all(str(key).isdecimal() for key in content)


def from_phases(content: Mapping[Any, Any], name: str) -> Schedule:
    """The schedule that the phases come to.

    A phase ends as there when its metric stalls (patience 3), and the next one begins from the best weights; what a
    phase opened keeps its rate. `max_transition_epoch` counts from the beginning of training; a phase takes as many
    epochs as lie between its own and the one before, and that of the last phase does not end training.

    Args:
        content: phase number -> its keys.
        name: of the schedule.

    Returns:
        The schedule, one stage for each phase.

    Raises:
        ScheduleError: for what is not understood here or refused there, with the phase.
    """
    numbers = [int(key) for key in content]
    if sorted(numbers) != list(range(len(numbers))):
        raise ScheduleError(f"phases are numbered 0, 1, 2, ...; found {sorted(numbers)}")
    phases = {int(key): value for key, value in content.items()}
    schedule = Schedule(name, leave_frozen=True)
    opened: list[list[str]] = []
    rates: list[float] = []
    lr_scheduler: Any = "constant"
    for number in range(len(phases)):
        try:
            phase = _checked(phases[number], PHASE_KEYS)
            if "new_lr_scheduler" in phase:
                if number == 0:
                    raise ScheduleError("new_lr_scheduler: is for later phases; the first has the optimizer's own")
                new = _checked(phase["new_lr_scheduler"], LR_SCHEDULER_KEYS)
                lr_scheduler, monitor = _lr_scheduler(new)
                if monitor and schedule.monitor not in (None, monitor):
                    raise ScheduleError(
                        f"monitor: is {monitor}, another phase has {schedule.monitor}; name one metric"
                    )
                schedule.monitor = monitor or schedule.monitor
                rates = _new_rates(rates, new.get("init_pg_lrs"))
            opened.append(_patterns(phase.get("params")))
            rates.append(_rate(phase, number))
        except ScheduleError as error:
            raise ScheduleError(f"phase {number}: {error}") from error
        lrs = {f"params:{p}": rate for patterns, rate in zip(opened, rates, strict=True) for p in patterns}
        schedule.stages.append(
            Stage(
                f"phase_{number}",
                [{"params": opened[-1]}],
                until=Until(max_epochs=NO_LIMIT),
                restore_best=True,
                lrs=lrs,
                lr_scheduler=lr_scheduler,
            )
        )
    for stage, epochs in zip(schedule.stages, _lengths(phases), strict=True):
        if epochs:
            assert stage.until is not None
            stage.until.max_epochs = epochs
    return schedule


def _checked(value: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ScheduleError(f"expects keys and values, got {value!r}")
    if unknown := [str(key) for key in value if key not in keys]:
        raise ScheduleError(f"{unknown[0]} is not understood here; use {', '.join(keys)}")
    return value


def _patterns(params: Any) -> list[str]:
    if not isinstance(params, list | tuple) or not params:
        raise ScheduleError(f"params: expects a list of names or patterns, got {params!r}")
    return [str(pattern) for pattern in params]


def _rate(phase: Mapping[str, Any], number: int) -> float:
    if number == 0 and "lr" not in phase:
        raise ScheduleError("has no lr; finetuning-scheduler takes it from the optimizer, here it stands in the file")
    return _number("lr", phase.get("lr", BASE_MAX_LR))


def _number(key: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ScheduleError(f"{key}: expects a number greater than 0, got {value!r}")
    return number


def _lr_scheduler(new: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """The scheduler as a stage has it, and the metric that it looks at."""
    begin = _checked(new.get("lr_scheduler_init"), ("class_path", "init_args"))
    if "class_path" not in begin:
        raise ScheduleError("lr_scheduler_init: has no class_path")
    arguments = begin.get("init_args") or {}
    if not isinstance(arguments, Mapping) or "_target_" in arguments:
        raise ScheduleError(f"init_args: expects the arguments of {begin['class_path']}, got {arguments!r}")
    config = _checked(new.get("pl_lrs_cfg") or {}, CONFIG_KEYS)
    settings = {"interval": "epoch", **{key: config[key] for key in ("interval", "frequency") if key in config}}
    monitor = config.get("monitor")
    target = {"_target_": str(begin["class_path"]), **arguments, **settings}
    return target, None if monitor is None else str(monitor)


def _new_rates(rates: list[float], given: Any) -> list[float]:
    """Rates for the phases so far from `init_pg_lrs`: one each, or two equal ones (with and without decay)."""
    if given is not None and not isinstance(given, list | tuple):
        raise ScheduleError(f"init_pg_lrs: expects a list of rates, got {given!r}")
    values = rates if given is None else [_number("init_pg_lrs", value) for value in given]
    if len(values) == 2 * len(rates) and values[::2] == values[1::2]:
        values = values[::2]
    if len(values) != len(rates):
        raise ScheduleError(f"init_pg_lrs: gives {len(values)} rates for {len(rates)} earlier phases; give one each")
    return list(values)


def _lengths(phases: Mapping[int, Any]) -> list[int | None]:
    """The most epochs of each phase, from the epochs at which they end; that of the last ends nothing."""
    ends = [phases[number].get("max_transition_epoch", -1) for number in range(len(phases))]
    if bad := [end for end in ends if isinstance(end, bool) or not isinstance(end, int)]:
        raise ScheduleError(f"max_transition_epoch: expects whole numbers, got {bad[0]!r}")
    known = [0, *(end for end in ends if end >= 0)]
    if any(later <= earlier for earlier, later in pairwise(known)):
        raise ScheduleError(f"max_transition_epoch must rise from phase to phase, got {ends}")
    before = dict(pairwise(reversed(known)))
    return [*(end - before[end] if end >= 0 else None for end in ends[:-1]), None]
