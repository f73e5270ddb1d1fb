"""The configuration of a run that goes on: its own, with what the command line says differently. No torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from stagetune.config.schema import Composed, Config
from stagetune.config.validate import validate
from stagetune.errors import ConfigError
from stagetune.typed import key_problem

FILE = "config.yaml"
OWN = ("resume", "resume_with_new_schedule")


def check_run(run_dir: Path) -> None:
    """Raise `ConfigError` for a directory that holds no run."""
    if not (run_dir / FILE).exists():
        where = f"{run_dir / FILE} does not exist (looked in {Path.cwd()})"
        raise ConfigError([f"resume={run_dir}: holds no run, {where}"])


def is_setting(word: str) -> bool:
    """Whether a word of the command line sets a single key, such as data.num_workers=2."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "." in key and not key.lstrip("+~").startswith("hydra")


def resumed(run_dir: Path, composed: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration kept in `run_dir`, with the keys of `overrides` set and its groups as they are `composed`.

    Raises `ConfigError` where there is no run, and for overrides that cannot be said to one.
    """
    check_run(run_dir)
    try:
        values = yaml.safe_load((run_dir / FILE).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"resume={run_dir}: {run_dir / FILE} cannot be read: {error}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"resume={run_dir}: {run_dir / FILE} holds no configuration"])
    problems = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in OWN or key.startswith("hydra"):
            continue
        if key in ("experiment", "sweep") or override.is_delete():
            problems.append(f"{override.input_line}: cannot be said to a resumed run; leave it out")
        elif problem := key_problem(key, Composed):
            problems.append(problem)
        else:
            try:
                _put(values, composed[key] if "." not in key else override.value(), key)
            except (IndexError, KeyError, ValueError, TypeError):
                problems.append(f"{override.input_line}: there is no such place in {run_dir / FILE}")
    if problems:
        raise ConfigError(problems)
    return validate({**values, "resume_with_new_schedule": composed["resume_with_new_schedule"]})


def _put(values: Any, value: Any, key: str) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values[int(part)] if isinstance(values, list) else values.setdefault(part, {})
    if isinstance(values, list):
        values[int(last)] = value
    else:
        values[last] = value
