"""Hydra's side of the configuration: the schema it starts from, and its errors in our words."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stagetune.config.schema import Composed, Config
from stagetune.config.validate import validate
from stagetune.errors import ConfigError, did_you_mean
from stagetune.typed import key_problem

CONF = Path(__file__).resolve().parents[3] / "conf"
LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


def register_schema() -> None:
    """Make the dataclasses' keys and defaults the start of every composition.

    They are stored untyped on purpose: Hydra would stop at the first value of a wrong type, where
    `validate` reports all of them.
    """
    ConfigStore.instance().store("schema", asdict(Composed()))


def load(overrides: Sequence[str]) -> Config:
    """The checked configuration that `python train.py <overrides>` would run; raises `ConfigError`."""
    try:
        return validate(to_plain(_compose(overrides)), overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides) from error


def to_plain(config: DictConfig) -> dict[str, object]:
    """A composed configuration as plain containers, interpolations resolved."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Hydra's error at composing `overrides` as one message that names every problem, not only the first."""
    bad: dict[str, str] = {}
    good: list[str] = []
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as unreadable:
        return ConfigError([_unreadable(overrides, unreadable)])
    for override in parsed:
        problem = next(_override_problems(override), None)
        if problem:
            bad[str(override.input_line)] = problem
        elif not override.is_sweep_override():
            good.append(str(override.input_line))
    try:
        validate(to_plain(_compose(good)), good)
    except ConfigError as rest:
        return ConfigError([*bad.values(), *rest.problems])
    except (HydraException, OmegaConfBaseException) as rest:
        if not bad:
            return ConfigError([_first_line(rest)])
    return ConfigError(list(bad.values()) or [_first_line(error)])


def _compose(overrides: Sequence[str]) -> DictConfig:
    register_schema()
    if GlobalHydra.instance().is_initialized():
        return compose("train", list(overrides))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(overrides))


def _override_problems(override: Override) -> Iterator[str]:
    """What is wrong with one override of the command line, before anything is composed."""
    key = override.key_or_group
    if key == "hydra/launcher":
        for launcher in _values(override):
            plugin = LAUNCHERS.get(launcher)
            if plugin and find_spec(f"hydra_plugins.hydra_{plugin}_launcher") is None:
                extra = "ray" if plugin == "ray" else "sweep"
                yield f"hydra/launcher={launcher}: its plugin is not installed; pip install 'stagetune[{extra}]'"
    if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
        return
    if (CONF / key).is_dir() and "." not in key:
        options = sorted(path.stem for path in (CONF / key).glob("*.yaml"))
        for option in _values(override):
            if option not in options:
                yield f"{key}={option}: no such {key}; {did_you_mean(option, options)}"
        if key in ("experiment", "sweep") and not override.is_add():
            yield f"{override.input_line}: write +{override.input_line}"
        return
    if problem := key_problem(key, Composed):
        groups = {path.name for path in CONF.iterdir() if path.is_dir()} | {entry.name for entry in fields(Composed)}
        yield f"{key}: no such key or group; {did_you_mean(key, sorted(groups))}" if "." not in key else problem


def _values(override: Override) -> Iterator[str]:
    value = override.value()
    if isinstance(value, Sweep):
        yield from (str(item) for item in override.sweep_string_iterator())
    else:
        yield from (str(item) for item in (value if isinstance(value, list) else [value]))


def _unreadable(overrides: Sequence[str], error: Exception) -> str:
    """The override that Hydra's grammar cannot read, and how to write it."""
    for override in overrides:
        try:
            OverridesParser.create().parse_override(override)
        except HydraException:
            key, equals, value = override.partition("=")
            if not equals:
                return f"{override}: is neither an option nor key=value; write {key}=..."
            return f"{override}: cannot be read; quote the value twice, '{key}=\"{value}\"'"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    if unwritten := re.match(r"Could not override '([^']+)'", str(error)):
        key = unwritten[1]
        if key.startswith("schedule.backbone_finetuning"):
            return f"{key}: is an argument of schedule=backbone_finetuning; add that"
        return f"{key}: does not stand in the file that it would change; add it with a plus, +{key}=..."
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    if isinstance(cause, OmegaConfBaseException) and str(cause).splitlines()[0] not in lines:
        lines.insert(1, str(cause).splitlines()[0])
    text = " ".join(lines[:2])
    if beyond := re.match(r"Error merging override (\S+) list index out of range", text):
        return f"{beyond[1]}: the list has fewer entries than that; they count from 0"
    return text
