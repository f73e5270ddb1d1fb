"""The configuration of a run that goes on: its own, with what the command line says differently. No torch."""

import re
import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from stagetune.artifacts import RunDir, stored_config
from stagetune.config.earlier import translated
from stagetune.config.parts import OWN as OWN_PART
from stagetune.config.parts import PACKAGES, TARGETS
from stagetune.config.schema import Composed, Config
from stagetune.config.validate import named_own, validate
from stagetune.errors import ConfigError, ResultError
from stagetune.shipped import COMMAND
from stagetune.trust import Foreign, foreign, targets_in
from stagetune.typed import key_problem

OWN = ("resume", "resume_with_new_schedule", "trust")


def check_run(run_dir: Path) -> None:
    """Raise `ConfigError` for a directory that holds no run."""
    config = RunDir(run_dir).config
    if not config.exists():
        where = f"{config} does not exist (looked in {Path.cwd()})"
        raise ConfigError([f"resume={run_dir}: holds no run, {where}"])


def resumed_dir(overrides: Sequence[str]) -> Path | None:
    """The directory that `resume=` names on a command line, if any; raises `ConfigError` where it holds no run."""
    named = [word.partition("=")[2] for word in overrides if word.startswith("resume=")]
    if not named or named[-1] == "null":
        return None
    name = named[-1]
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1]
    if not name:
        raise ConfigError(["resume=: names nothing; give the directory of a run"])
    run_dir = Path(name).expanduser()
    check_run(run_dir)
    return run_dir


def resume_command(run_dir: str, config: Config | None = None) -> str:
    """How a run there is told to go on, to be pasted into a shell; what it names of one's own is typed again."""
    plain = re.fullmatch(r"[\w./:-]+", run_dir) is not None
    word = f"resume={run_dir}" if plain else shlex.quote(f'resume="{run_dir}"')
    own = [_typed_again(one) for one in foreign(asdict(config))] if config else []
    return " ".join([COMMAND, word, *own])


def is_setting(word: str) -> bool:
    """Whether a word of the command line sets a single key, such as data.num_workers=2."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "." in key and not key.lstrip("+~").startswith("hydra")


def resumed(run_dir: Path, composed: Mapping[str, Any], overrides: Sequence[str]) -> Config:
    """The configuration kept in `run_dir`, with the keys of `overrides` set and its groups as they are `composed`.

    Raises `ConfigError` where there is no run, for overrides that cannot be said to one, and where the run names code
    that these do not.
    """
    check_run(run_dir)
    try:
        values = translated(stored_config(RunDir(run_dir)))
    except ResultError as error:
        raise ConfigError([f"resume={run_dir}: {error}"]) from error
    values = changed(without_download(values), composed, overrides, whose="a resumed run")
    if found := foreign_parts(values, composed, overrides):
        raise ConfigError([f"resume={run_dir}: its config.yaml names {one}; {_remedy(one)}" for one in found])
    settings = {"resume": str(run_dir), "resume_with_new_schedule": composed["resume_with_new_schedule"]}
    return validate({**values, **settings})


def without_download(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration that downloads no images: no file has something fetched, and the run has had them."""
    data = stored.get("data")
    has_it = isinstance(data, Mapping) and bool(data.get("download"))
    return {**stored, "data": {**data, "download": False}} if has_it else dict(stored)  # type: ignore[dict-item]


def foreign_parts(
    values: Mapping[str, Any], composed: Mapping[str, Any], overrides: Sequence[str], *, trust: bool = False
) -> list[Foreign]:
    """What a stored configuration names and nobody has trusted, nor typed again.

    Args:
        values: as it is `changed`.
        composed: what Hydra makes of the overrides that choose groups, and of trust=true.
        overrides: all words of the command line.
        trust: whether it was trusted by another word.

    Raises:
        ConfigError: for a trust= that says neither.
    """
    if not isinstance(said_trust := composed.get("trust", False), bool):
        raise ConfigError([f"trust={said_trust}: expects true or false"])
    words = OverridesParser.create().parse_overrides(list(overrides))
    typed = {str(word.value()) for word in words if word.key_or_group.endswith("._target_")}
    typed |= targets_in(dict(composed)).union(*(targets_in(word.value()) for word in words))
    said = [word.key_or_group for word in words if not _is_kept(word.key_or_group, word.value(), values)]
    return foreign(named_own(values), trust or said_trust or typed, said)


def _remedy(one: Foreign) -> str:
    return f"if you trust where it comes from, type it again, {_typed_again(one)}, or say trust=true"


def _typed_again(one: Foreign) -> str:
    return shlex.quote(f"{one.key}={one.value}")


def changed(
    stored: Mapping[str, Any], composed: Mapping[str, Any], overrides: Sequence[str], *, whose: str
) -> dict[str, Any]:
    """A stored configuration with what a command line says differently.

    Args:
        stored: as it is said now, see `earlier.translated`.
        composed: what Hydra makes of the overrides that choose groups.
        overrides: all words of the command line: keys are set, and groups are as they are composed.
        whose: configuration it is, for messages.

    Raises:
        ConfigError: for overrides that cannot be said to it.
    """
    values, problems = deepcopy(dict(stored)), []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.key_or_group
        if key in OWN or key.startswith("hydra"):
            continue
        if _is_kept(key, override.value(), values):
            continue  # what is said of it comes by other words
        if key in ("experiment", "sweep") or override.is_delete():
            problems.append(f"{override.input_line}: cannot be said to {whose}; leave it out")
        elif key.partition(".")[0] not in PACKAGES and (problem := key_problem(key, Composed)):
            problems.append(problem)
        else:
            try:
                _put(values, composed[key] if "." not in key else override.value(), key)
            except (IndexError, KeyError, ValueError, TypeError):
                problems.append(f"{override.input_line}: there is no such place in the configuration of {whose}")
    if problems:
        raise ConfigError(problems)
    return values


def _is_kept(key: str, value: Any, stored: Mapping[str, Any]) -> bool:
    """Whether a word chooses the option `own` of a group that has it already, which stays as it is stored."""
    part = stored.get(key)
    return key in TARGETS and value == OWN_PART and isinstance(part, Mapping) and part.get("name") == OWN_PART


def _put(values: Any, value: Any, key: str) -> None:
    *path, last = key.split(".")
    for part in path:
        values = values[int(part)] if isinstance(values, list) else values.setdefault(part, {})
    if isinstance(values, list):
        values[int(last)] = value
    else:
        values[last] = value
