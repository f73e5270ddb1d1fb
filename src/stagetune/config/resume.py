"""The configuration of a run that goes on: its own, with what the command line says differently. No torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from stagetune.config.schema import Config
from stagetune.config.validate import validate
from stagetune.errors import ConfigError

FILE = "config.yaml"
OWN = ("resume", "resume_with_new_schedule")


def resumed(run_dir: Path, composed: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration kept in `run_dir`, with the keys of `overrides` set and its groups as they are `composed`.

    Raises `ConfigError` where there is no run, and for an override that stands for more than one key.
    """
    path = run_dir / FILE
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            [f"resume={run_dir}: holds no run, {path} does not exist (looked in {Path.cwd()})"]
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"resume={run_dir}: {path} cannot be read: {error}"]) from error
    if not isinstance(values, dict):
        raise ConfigError([f"resume={run_dir}: {path} holds no configuration"])
    problems = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in OWN or key.startswith("hydra"):
            continue
        if key in ("experiment", "sweep") or override.is_delete():
            problems.append(f"{override.input_line}: cannot be said to a resumed run; leave it out")
        else:
            _put(values, composed[key] if key in composed and "." not in key else override.value(), key)
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
