"""Hydra's side of the configuration: the schema it starts from, and its errors in our words."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from stagetune.config.parts import OWN, PACKAGES, TARGETS, elsewhere, readers
from stagetune.config.resume import is_setting, resumed, resumed_dir
from stagetune.config.schema import Composed, Config
from stagetune.config.validate import validate
from stagetune.errors import ConfigError, did_you_mean
from stagetune.seams import composing, store_once
from stagetune.shipped import CONF, own_conf
from stagetune.typed import key_problem

OPEN = (*PACKAGES, "callbacks", "metrics")  # groups in which any key may be given; `validate` looks at them
# what people write for a setting that every stage has of its own
OF_STAGES = {
    "lr": "lr", "learning_rate": "lr", "epochs": "epochs", "max_epochs": "epochs", "num_epochs": "epochs",
    "steps": "steps", "max_steps": "steps", "warmup": "warmup", "patience": "until.patience",
    "lr_scheduler": "lr_scheduler", "scheduler": "lr_scheduler", "weight_decay": "weight_decay",
    "gradient_clip_val": "gradient_clip_val",
}  # fmt: skip
HYDRAS_OWN = (HydraException, OmegaConfBaseException)
UNCOMPOSABLE = (*HYDRAS_OWN, TypeError, ValueError, yaml.YAMLError)  # of omegaconf for odd indices, of files
LAUNCHERS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}


def register_schema() -> None:
    """Make the dataclasses' keys and defaults the start of every composition.

    They are stored untyped on purpose: Hydra would stop at the first value of a wrong type, where
    `validate` reports all of them. Of groups whose options are parts nothing is stored and every key is taken: which
    there are, and their defaults, is known once the part is.
    """
    schema = OmegaConf.create(asdict(Composed()) | {group: {} for group in OPEN})
    for group in OPEN:
        OmegaConf.set_struct(schema[group], False)
    store_once("stagetune_schema", schema)


def compose(overrides: Sequence[str] = ()) -> Config:
    """The checked configuration that `python train.py <overrides>` would run.

    Args:
        overrides: the words of a command line, such as `+experiment=siamese_staged` and `seed=1`. `resume=DIR` gives
            the configuration that the run in DIR has kept, with what the other words say differently.

    Returns:
        Every setting, with its type. It may be changed before it is run.

    Raises:
        ConfigError: with every problem of the overrides at once.

    >>> compose(["schedule=full", "data.image_size=96"]).data.image_size
    96
    """
    if isinstance(overrides, str):
        raise ConfigError([f"{overrides!r}: is one text; give a list of words, {overrides.split()}"])
    words = with_own(overrides)
    if strange := [word for word in words if not isinstance(word, str) or word.startswith("-")]:
        raise ConfigError(
            [f"{word!r}: is no override; give words such as seed=1, one run at a time" for word in strange]
        )
    run_dir = resumed_dir(words)
    try:
        values = to_plain(composed([word for word in words if not (run_dir and is_setting(word))]))
    except UNCOMPOSABLE as error:
        raise explain(error, words) from error
    return resumed(run_dir, values, words) if run_dir else validate(values, words)


def with_own(words: Sequence[str]) -> list[str]:
    """The words of a command line, with the option `own` of a group where one of a person's own is named there.

    So that what the file of another option says does not hold for it. Raises `ConfigError` if it was chosen, too.
    """
    keys = [str(word).lstrip("+").partition("=")[0] for word in words]
    found = list(words)
    for group in TARGETS:
        if f"{group}._target_" not in keys:
            continue
        if group in keys and (word := str(words[keys.index(group)])) != f"{group}={OWN}":
            raise ConfigError([f"{word} and {group}._target_: both choose a {group}; leave one of them out"])
        if group not in keys:  # beside it: flags may stand first or last
            found.insert(found.index(words[keys.index(f"{group}._target_")]), f"{group}={OWN}")
    return found


def to_plain(config: DictConfig) -> dict[str, object]:
    """A composed configuration as plain containers, interpolations resolved."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def check_own(hydra: Any) -> None:
    """Raise `ConfigError` where an option was chosen that ./conf has, too, and differently.

    Ours would be taken, and whoever wrote theirs would never know.

    Args:
        hydra: Hydra's own part of what was composed: its choices by group, and the overrides, which may have several.
    """
    own = own_conf()
    if own is None:
        return
    words = [str(word).lstrip("+").partition("=") for word in hydra.overrides.task]
    chosen = [*hydra.runtime.choices.items(), *((key, one) for key, _, values in words for one in values.split(","))]
    problems = {}
    for group, option in chosen:
        name = f"{group}/{str(option).strip('[] ').removesuffix('.yaml')}.yaml"
        theirs, ours = own / name, CONF / name
        if theirs.is_file() and ours.is_file() and theirs.read_bytes() != ours.read_bytes():
            problems[name] = (
                f"{group}={Path(name).stem}: conf/{name} has the name of an option that ships with stagetune, and "
                "says something else; rename yours"
            )
    if problems:
        raise ConfigError(list(problems.values()))


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
        validate(to_plain(composed(good)), good)
    except ConfigError as rest:
        return ConfigError([*bad.values(), *rest.problems])
    except UNCOMPOSABLE as rest:
        if not bad:
            return ConfigError([_first_line(rest) if isinstance(rest, HYDRAS_OWN) else _plain_error(good, rest)])
    return ConfigError(list(bad.values()) or [_first_line(error)])


def has_unread_train() -> bool:
    """Whether ./conf has a primary configuration of its own, which is never taken for ours."""
    own = own_conf()
    theirs = own / "train.yaml" if own else None
    return theirs is not None and theirs.is_file() and theirs.read_bytes() != (CONF / "train.yaml").read_bytes()


def composed(overrides: Sequence[str]) -> DictConfig:
    """As Hydra composes them, its own part included; raises Hydra's errors and those of `check_own`."""
    register_schema()
    with composing(str(CONF)) as hydra_compose:
        config: DictConfig = hydra_compose("train", list(overrides), return_hydra_config=True)
    check_own(config.hydra)
    with open_dict(config):
        del config["hydra"]
    return config


def is_one_at_a_time(hydra: Any) -> bool:
    """Whether Hydra's settings have the jobs of a sweep run in this process, one after another."""
    return str(hydra.launcher._target_).endswith("BasicLauncher")


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
    if key in groups():
        options = sorted({path.stem for folder in _folders() for path in (folder / key).glob("*.yaml")})
        for option in _values(override):
            if option not in options:
                yield f"{key}={option}: no such {key}; {did_you_mean(option, options, '', elsewhere(key))}"
        if key in ("experiment", "sweep") and not override.is_add():
            yield f"{override.input_line}: write +{override.input_line}"
        return
    if "." not in key and key not in (known := sorted(groups() | {entry.name for entry in fields(Composed)})):
        yield f"{key}: no such key or group; {_meant(override) or did_you_mean(key, known)}"
    elif key.partition(".")[0] not in OPEN and (problem := key_problem(key, Composed)):
        yield problem


def _meant(override: Override) -> str:
    """Where a setting belongs that was given without its group; empty if there is none of that name."""
    key, value = override.key_or_group, override.get_value_element_as_str()
    if inner := OF_STAGES.get(key):
        return f"every stage has its own, write schedule.stages.0.{inner}={value} for the first"
    factories: dict[str, Any] = {entry.name: entry.default_factory for entry in fields(Composed)}
    groups = [
        group
        for group, kind in factories.items()
        if is_dataclass(kind) and key in {entry.name for entry in fields(kind)}
    ]
    return " or ".join(f"write {group}.{key}={value}" for group in dict.fromkeys([*readers(key), *groups]))


def groups() -> set[str]:
    """What has options, in conf/ and in ./conf."""
    return {path.name for folder in _folders() for path in folder.iterdir() if path.is_dir()}


def _folders() -> list[Path]:
    own = own_conf()
    return [CONF, own] if own else [CONF]


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


def _plain_error(overrides: Sequence[str], error: Exception) -> str:
    """What Python says of an override, with the one that it says it of."""
    for override in overrides:
        try:
            composed([override])
        except (TypeError, ValueError, yaml.YAMLError) as own:
            return f"{override}: {' '.join(str(own).split())}"
        except (ConfigError, *HYDRAS_OWN):
            continue
    return " ".join(str(error).split())


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
