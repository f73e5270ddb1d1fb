"""What a file from elsewhere may name: known classes, looked at before one is called, and no place outside. No torch.

What a command line types, conf/ and ./conf is trusted; a checkpoint, a run's directory or a schedule file is data.
docs/trust.md says it for those who use it.
"""

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from stagetune.errors import ConfigError, WeightsError
from stagetune.shipped import CONF
from stagetune.targets import find

Trust = bool | Collection[str]  # all that a file names, or the classes of these names alone
OUTSIDE = re.compile(r"^[/\\~]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|://")  # of any system, or a URL


class Untrusted(WeightsError):
    """A file that names code which it does not hold."""


@dataclass(frozen=True)
class Kind:
    """What may stand at a place.

    Attributes:
        package: in which it is named.
        base: the class that it is derived from.
        parts: the parts of the package in which it is defined; without any, all of it.
        writes: its arguments that say where it writes, or what it downloads.
        takes: the only arguments that it may be given; None for all others.
        but: parts of the package that are left out.
    """

    package: str
    base: str
    parts: tuple[str, ...] = ("",)
    writes: tuple[str, ...] = ()
    takes: tuple[str, ...] | None = None
    but: tuple[str, ...] = ()


NETWORK = "torch.nn.Module"
LAYERS = Kind("torch.nn", NETWORK)
# by the place in the configuration; elsewhere a file may name nothing, such as data that a class of its own reads
PLACES: Mapping[str, tuple[Kind, ...]] = {
    "model": (LAYERS, Kind("torchvision.models", NETWORK, writes=("weights", "weights_backbone", "pretrained"))),
    "loss": (LAYERS,),
    "optimizer": (Kind("torch.optim", "torch.optim.Optimizer"),),
    "data.transform": (Kind("torchvision.transforms", "builtins.object"),),
    "metrics": (
        Kind(
            "torchmetrics",
            "torchmetrics.Metric",
            ("classification", "aggregation", "regression", "retrieval", "clustering", "nominal", "wrappers"),
        ),  # of other parts some download a network
    ),
    "callbacks": (
        Kind("lightning.pytorch.callbacks", "lightning.pytorch.Callback", writes=("dirpath",), but=("spike",)),
    ),  # of SpikeDetection its state in a checkpoint says where it writes, too
    "logger.lightning": (
        Kind(
            "lightning.pytorch.loggers",
            "lightning.pytorch.loggers.Logger",
            takes=("name", "version", "prefix", "project", "experiment_name", "tags", "log_graph"),
        ),
    ),
    "schedule": (Kind("torch.optim.lr_scheduler", "torch.optim.lr_scheduler.LRScheduler"),),
}


@dataclass(frozen=True)
class Foreign:
    """What a file names and may not.

    Attributes:
        key: where it stands, dotted.
        value: what stands there.
        is_code: whether it is a class or function, or else a place outside of the run.
    """

    key: str
    value: str
    is_code: bool = True

    def __str__(self) -> str:
        if self.is_code:
            return f"{self.value}, code that it does not hold"
        return f"{self.key}={self.value}, which is not within the run"


def foreign(values: Mapping[str, Any], trust: Trust = False, said: Collection[str] = ()) -> list[Foreign]:
    """All that a configuration from a file names and that nobody has trusted.

    Nothing is called, and nothing imported but the packages of `PLACES`.

    Args:
        values: the configuration, plain, or parts of it in their places.
        trust: whether the file is trusted, or the names of targets that are.
        said: dotted keys that this command line says, so that what stands there and below is not the file's.
    """
    if isinstance(trust, bool):
        return [] if trust else list(_foreign("", values, None, frozenset(), frozenset(said)))
    return list(_foreign("", values, None, frozenset(trust), frozenset(said)))


def targets_in(value: Any) -> set[str]:
    """All targets that plain values name, at any depth."""
    if isinstance(value, Mapping):
        own = {value["_target_"]} if isinstance(value.get("_target_"), str) else set()
        return own.union(*map(targets_in, value.values()))
    return set().union(*map(targets_in, value)) if isinstance(value, list | tuple) else set()


def _foreign(
    path: str, value: Any, within: "_Known | None", typed: frozenset[str], said: frozenset[str]
) -> Iterator[Foreign]:
    """Of a value at a path; `within` is the known target of whose arguments it is."""
    if path in said:
        return
    if isinstance(value, Mapping):
        name = value.get("_target_")
        if name is not None:
            kind = next((kind for kind in _kinds_at(path) if _is_known(str(name), kind)), None)
            within = _Known(path, str(name), kind) if kind else None
            if kind is None and not (isinstance(name, str) and name in typed):
                yield Foreign(f"{path}._target_", str(name))
        for key, item in value.items():
            if key != "_target_":
                yield from _foreign(f"{path}.{key}" if path else str(key), item, within, typed, said)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _foreign(f"{path}.{i}", item, within, typed, said)
    elif value is not None and _leads_out(path, value, within):
        yield Foreign(path, str(value), is_code=False)


def _kinds_at(path: str) -> tuple[Kind, ...]:
    return next((kinds for place, kinds in PLACES.items() if f"{path}.".startswith(f"{place}.")), ())


@dataclass(frozen=True)
class _Known:
    """A known target, and where it stands."""

    path: str
    name: str
    kind: Kind


def _leads_out(path: str, value: Any, within: _Known | None) -> bool:
    """Whether a plain value has something read or written elsewhere."""
    is_outside = isinstance(value, str) and bool(OUTSIDE.search(value))
    if within is None:
        return path == "schedule.file" or (path == "name" and is_outside)
    kind, argument = within.kind, path.removeprefix(f"{within.path}.").partition(".")[0]
    if argument == "_partial_" or _shipped().get((within.name, argument)) == value:
        return False
    if kind.takes is not None:
        return is_outside or argument not in kind.takes
    return is_outside or (argument in (*kind.writes, "_args_") and bool(kind.writes))


@cache
def _shipped() -> Mapping[tuple[str, str], Any]:
    """The arguments that options of ours give to their targets, such as where MLflow keeps its runs."""
    found: dict[tuple[str, str], Any] = {}
    for file in CONF.glob("logger/*.yaml"):
        given = yaml.safe_load(file.read_text()).get("lightning") or {}
        found |= {(str(given.get("_target_")), str(key)): value for key, value in given.items()}
    return found


def _is_known(name: str, kind: Kind) -> bool:
    """Whether a name stands for a class of the kind that is defined there, or for one of torchvision's networks."""
    if not name.startswith(f"{kind.package}."):
        return False
    try:
        target, base = find(name), find(kind.base)
    except ConfigError:
        return False
    # a module may hold what it has imported, such as a function that reads any file
    defined = f"{getattr(target, '__module__', '')}."
    if not _is_in(defined, kind.package, kind.parts) or _is_in(defined, kind.package, kind.but):
        return False
    if inspect.isclass(target):
        return issubclass(target, base)
    return kind.package == "torchvision.models" and target in _networks()


def _is_in(module: str, package: str, parts: Collection[str]) -> bool:
    return any(module.startswith(f"{package}.{part}".rstrip(".") + ".") for part in parts)


@cache
def _networks() -> tuple[Any, ...]:
    """The functions that make torchvision's classifiers; some for detection download weights unasked."""
    from torchvision import models

    return tuple(models.get_model_builder(name) for name in models.list_models(module=models))
