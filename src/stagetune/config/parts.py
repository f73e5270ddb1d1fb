"""Parts: what a configuration chooses by name. Each is a module of that name, with its `Settings`. No torch.

A module is registered by lying in the package of its kind, so that names are known without importing it; and it
imports torch where it builds, not at its top, so that its settings are known without torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from stagetune.errors import did_you_mean, near
from stagetune.typed import Settings

PACKAGES = {
    "task": "stagetune.tasks.settings",
    "model": "stagetune.models.backbones",
    "data": "stagetune.data.sources",
    "loss": "stagetune.losses",
}
WRAPPERS = "stagetune.data.wrappers"
DEFAULTS = {"task": "classifier", "model": "resnet", "data": "digits", "loss": "cross_entropy"}
OWN = "own"  # the part that stands for one of a person's own, named by `_target_`
TARGETS = {"model": "network", "data": "target", "loss": "target"}  # and its setting that holds the target


@cache
def names(package: str) -> tuple[str, ...]:
    """The parts of a package, in alphabetical order."""
    path = import_module(package).__path__
    return tuple(sorted(module.name for module in iter_modules(path) if not module.ispkg))


@cache
def part(group: str, name: str) -> type[Settings]:
    """The settings of the part that `group` knows by that name; of data with those of the wrappers that fit it."""
    kind: Any = settings_in(PACKAGES[group], name)
    if group != "data":
        return kind  # type: ignore[no-any-return]
    fitting = [wrapper for wrapper in wrappers() if kind.has_identities or not wrapper.needs_identities]
    more = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce__": _reduced}
    return dataclass(type("Settings", (*fitting, kind), more))


def _reduced(data: Any) -> tuple[Any, tuple[dict[str, Any]]]:
    """How settings of data are pickled and copied, whose class has no name of its own."""
    return _data, ({entry.name: getattr(data, entry.name) for entry in fields(data)},)


def _data(values: Mapping[str, Any]) -> Settings:
    return part("data", values["name"])(**values)


@cache
def wrappers() -> tuple[Any, ...]:
    """The settings of all wrappers, in the order in which they are laid around a source."""
    return tuple(settings_in(WRAPPERS, name) for name in names(WRAPPERS))


def settings_in(package: str, name: str) -> type[Settings]:
    """The settings that the module of that name brings."""
    found: type[Settings] = import_module(f"{package}.{name}").Settings
    return found


def of_data(data: Settings) -> tuple[Any, ...]:
    """The settings of which those of data are made: the source's and those of each wrapper that fits it."""
    return settings_in(PACKAGES["data"], data.name), *wrappers_of(data)  # type: ignore[attr-defined]


def wrappers_of(data: Settings) -> list[Any]:
    """The settings of the wrappers that fit the data."""
    return [wrapper for wrapper in wrappers() if isinstance(data, wrapper)]


class Parts:
    """The parts that a configuration has chosen, by group; see `typed.Chosen`.

    Args:
        values: the configuration, plain.
        words: of the command line that led to it.
    """

    def __init__(self, values: Mapping[str, Any], words: Sequence[str] = ()) -> None:
        self._words = words
        self.problems: list[str] = []
        self.names: dict[str, str] = {}
        for group in PACKAGES:
            given = values.get(group, {})
            name = given.get("name", DEFAULTS[group]) if isinstance(given, Mapping) else DEFAULTS[group]
            if name in names(PACKAGES[group]):
                self.names[group] = str(name)
            else:
                self.problems.append(unknown(group, str(name)))

    def __call__(self, path: str) -> type | None:
        return part(path, self.names[path]) if path in self.names else None

    def foreign(self, path: str, key: str) -> str | None:
        name = self.names.get(path)
        if name is None:
            return None
        others = [other for other in names(PACKAGES[path]) if key in _keys(path, other)]
        if not others:
            every = frozenset().union(*(_keys(path, other) for other in names(PACKAGES[path])))
            own = sorted(_keys(path, name))
            return f"no such key in {path}; {did_you_mean(key, own if near(key, own) else sorted(every), f'{path}.')}"
        do = f"{path}={', '.join(others)} {'do' if len(others) > 1 else 'does'}"
        like = f"; did you mean {path}.{alike}?" if (alike := near(key, sorted(_keys(path, name)))) else ""
        typed = any(word.lstrip("+").startswith(f"{path}.{key}=") for word in self._words)
        remedy = "" if typed or not self._words else f"; leave it out with ~{path}.{key}"
        return f"{path}={name} does not read it, {do}{like}{remedy}"

    def meant(self, path: str, value: Any) -> str | None:
        if path != "model.arch" or not any(value in archs(name) for name in names(PACKAGES["model"])):
            return None
        return f"it is of another family, choose model={value}"


def archs(family: str) -> tuple[str, ...]:
    """The architectures of a family of backbones, where there is a list of them."""
    choices = [entry.metadata.get("choices", ()) for entry in fields(part("model", family)) if entry.name == "arch"]  # type: ignore[arg-type]
    return tuple(choices[0]) if choices else ()


def unknown(group: str, name: str) -> str:
    """That there is no such part, and what there is."""
    return f"{group}={name}: no such {group}; {did_you_mean(name, names(PACKAGES[group]), '', elsewhere(group))}"


def elsewhere(group: str) -> str:
    """The end of a message: how what is not among the options of a group goes in."""
    return {
        "loss": "One of your own or of a library goes in as loss._target_=package.Loss",
        "data": "Data of your own goes in as data._target_=package.Dataset",
        "model": "Any of timm's goes in as model=timm model.arch=NAME, your own as model._target_=package.Network",
    }.get(group, "")


def readers(key: str) -> list[str]:
    """The groups in which a part reads a key of that name."""
    return [group for group in PACKAGES if any(key in _keys(group, name) for name in names(PACKAGES[group]))]


@cache
def _keys(group: str, name: str) -> frozenset[str]:
    every = {entry.name for entry in fields(part(group, name))}  # type: ignore[arg-type]
    return frozenset(every - {"target"})  # which is written without this word
