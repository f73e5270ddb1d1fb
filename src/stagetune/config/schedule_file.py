"""A schedule from a YAML file: our own words, or finetuning-scheduler's. Pure, no torch."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stagetune.config.convert import typed
from stagetune.config.schema import Schedule, Stage, Until
from stagetune.errors import ScheduleError

BASE_MAX_LR = 1e-5  # finetuning-scheduler's rate of a phase that names none
NO_LIMIT = 1000  # epochs: what Lightning's Trainer takes if nobody says
PHASE_KEYS = ("params", "max_transition_epoch", "lr", "new_lr_scheduler")
LR_SCHEDULER_KEYS = ("lr_scheduler_init", "pl_lrs_cfg", "init_pg_lrs")


def read_schedule(file: str | Path) -> Schedule:
    """The schedule that stands in a file; raises `ScheduleError`."""
    path = Path(file).expanduser()
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except FileNotFoundError:
        raise ScheduleError(f"schedule file {path} does not exist (looked in {Path.cwd()})") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ScheduleError(f"schedule file {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping) or not content:
        raise ScheduleError(f"schedule file {path} holds no schedule; give it stages, or phases 0, 1, ...")
    if all(isinstance(key, int) for key in content):
        return _from_phases(dict(content), path)
    problems: list[str] = []
    schedule = typed(Schedule, {"name": path.stem, **content}, "", problems)
    if not problems and schedule.file is not None:
        problems.append("file: a schedule file names no other file")
    if problems:
        raise ScheduleError("\n  ".join([f"schedule file {path}:", *problems]))
    assert isinstance(schedule, Schedule)
    return schedule


def _from_phases(phases: Mapping[Any, Any], path: Path) -> Schedule:
    """finetuning-scheduler's explicit schedule.

    A phase ends as there when its metric stalls (patience 3), and the next one begins from the best weights; what a
    phase opened keeps its rate. `max_transition_epoch` counts from the beginning of training there; here a phase
    may take as many epochs as lie between its own and the one before.
    """
    if sorted(phases) != list(range(len(phases))):
        raise ScheduleError(f"schedule file {path}: phases are numbered 0, 1, 2, ...; found {sorted(phases)}")
    schedule = Schedule(path.stem, leave_frozen=True)
    opened: list[list[str]] = []
    rates: list[float] = []
    lr_scheduler: Any = "constant"
    for number in range(len(phases)):
        try:
            phase = _checked(phases[number], PHASE_KEYS)
            if "new_lr_scheduler" in phase:
                new = _checked(phase["new_lr_scheduler"], LR_SCHEDULER_KEYS)
                lr_scheduler = _lr_scheduler(new)
                rates = _new_rates(rates, new.get("init_pg_lrs"))
            opened.append([str(pattern) for pattern in phase.get("params") or []])
            rates.append(_rate(phase, number))
        except ScheduleError as error:
            raise ScheduleError(f"schedule file {path}, phase {number}: {error}") from error
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
    for stage, epochs in zip(schedule.stages, _lengths(phases, path), strict=True):
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


def _rate(phase: Mapping[str, Any], number: int) -> float:
    if number == 0 and "lr" not in phase:
        raise ScheduleError("has no lr; finetuning-scheduler takes it from the optimizer, here it stands in the file")
    try:
        return float(phase.get("lr", BASE_MAX_LR))
    except (TypeError, ValueError):
        raise ScheduleError(f"lr: expects a number, got {phase['lr']!r}") from None


def _lr_scheduler(new: Mapping[str, Any]) -> dict[str, Any]:
    begin = _checked(new.get("lr_scheduler_init"), ("class_path", "init_args"))
    if "class_path" not in begin:
        raise ScheduleError("lr_scheduler_init: has no class_path")
    interval = (new.get("pl_lrs_cfg") or {}).get("interval", "epoch")
    return {"_target_": str(begin["class_path"]), **(begin.get("init_args") or {}), "interval": interval}


def _new_rates(rates: list[float], given: Any) -> list[float]:
    """Rates for the phases so far from `init_pg_lrs`: one each, or two equal ones (with and without decay)."""
    values = rates if given is None else [float(value) for value in given]
    if len(values) == 2 * len(rates) and values[::2] == values[1::2]:
        values = values[::2]
    if len(values) != len(rates):
        raise ScheduleError(f"init_pg_lrs: gives {len(values)} rates for {len(rates)} earlier phases; give one each")
    return list(values)


def _lengths(phases: Mapping[Any, Any], path: Path) -> list[int | None]:
    """The most epochs of each phase, from the epochs at which they end."""
    ends = [int(phases[number].get("max_transition_epoch", -1)) for number in range(len(phases))]
    known = [0, *(end for end in ends if end >= 0)]
    if any(later <= earlier for earlier, later in pairwise(known)):
        raise ScheduleError(f"schedule file {path}: max_transition_epoch must rise from phase to phase, got {ends}")
    before = dict(pairwise(reversed(known)))
    return [end - before[end] if end >= 0 else None for end in ends]
