"""What a stage opens or freezes: selectors resolved to the names of parameters. Pure, no torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from stagetune.config.schema import HEAD, SELECTORS
from stagetune.errors import ScheduleError, did_you_mean
from stagetune.schedule.model import Model

ALL = "all"


def select(selector: Any, model: Model) -> frozenset[str]:
    """The parameters that one selector names.

    A selector is a block, `head` or `all`, or one of `last: N` and `fraction: share` (the last layers of the
    backbone), `index: ranges` (its layers from 0, as 0:10, -5: or 0%:25%), `match: globs` (on names of modules
    or parameters) and `params: patterns` (`re.match` on names of parameters). Names may be given with or without
    the leading `backbone.`. Raises `ScheduleError` for one that names nothing.
    """
    if isinstance(selector, str):
        return _block(selector, model)
    if not isinstance(selector, Mapping) or len(selector) != 1:
        raise ScheduleError(
            f"{selector!r} is no selector; write a block name, or one of {{{', '.join(SELECTORS)}: ...}}"
        )
    ((kind, value),) = selector.items()
    if kind not in SELECTORS:
        raise ScheduleError(f"no selector named {kind}; {did_you_mean(str(kind), SELECTORS)}")
    try:
        found = _RESOLVE[kind](value, model)
    except (TypeError, ValueError, re.error) as error:
        raise ScheduleError(f"{kind}: {value!r} cannot be understood ({error})") from error
    if not found:
        raise ScheduleError(f"{kind}: {value} matches nothing; {_nearest(str(value), model)}")
    return found


def select_all(selectors: Sequence[Any], model: Model) -> frozenset[str]:
    """The parameters that any of the selectors names."""
    return frozenset().union(*(select(selector, model) for selector in selectors))


def _block(name: str, model: Model) -> frozenset[str]:
    valid = (*model.blocks, HEAD, ALL)
    if name not in valid:
        raise ScheduleError(f"this model has no block {name}; {did_you_mean(name, valid)}")
    return frozenset(p.name for p in model.parameters if name in (ALL, p.block))


def _last(value: Any, model: Model) -> frozenset[str]:
    layers = model.layers
    if int(value) < 1:
        raise ValueError("give a count of at least 1")
    return _of_layers(layers[max(0, len(layers) - int(value)) :], model)


def _fraction(value: Any, model: Model) -> frozenset[str]:
    if not 0 < float(value) <= 1:
        raise ValueError("give a share greater than 0 and at most 1")
    return _last(max(1, round(float(value) * len(model.layers))), model)


def _index(value: Any, model: Model) -> frozenset[str]:
    layers = model.layers
    chosen: set[str] = set()
    for text in _listed(value):
        first, colon, last = str(text).partition(":")
        begin = _position(first, len(layers), 0)
        end = _position(last, len(layers), len(layers)) if colon else begin + 1
        chosen.update(layers[begin:end])
    return _of_layers(chosen, model)


def _match(value: Any, model: Model) -> frozenset[str]:
    return frozenset(p.name for p in model.parameters if any(_fits(p.name, str(glob)) for glob in _listed(value)))


def _params(value: Any, model: Model) -> frozenset[str]:
    return frozenset().union(*(_param(str(pattern), model) for pattern in _listed(value)))


def _param(pattern: str, model: Model) -> frozenset[str]:
    """One name in full, else all that the pattern matches from their beginning."""
    fits = re.compile(pattern).match
    exact = frozenset(p.name for p in model.parameters if pattern in _spellings(p.name))
    return exact or frozenset(p.name for p in model.parameters if any(map(fits, _spellings(p.name))))


_RESOLVE: Mapping[str, Callable[[Any, Model], frozenset[str]]] = {
    "last": _last,
    "fraction": _fraction,
    "index": _index,
    "match": _match,
    "params": _params,
}


def _fits(name: str, glob: str) -> bool:
    """Whether the glob matches the parameter's name or that of a module that it belongs to."""
    for spelling in _spellings(name):
        parts = spelling.split(".")
        if any(fnmatchcase(".".join(parts[:end]), glob) for end in range(1, len(parts) + 1)):
            return True
    return False


def _spellings(name: str) -> tuple[str, ...]:
    return (name, name.removeprefix("backbone.")) if name.startswith("backbone.") else (name,)


def _of_layers(layers: Any, model: Model) -> frozenset[str]:
    wanted = set(layers)
    return frozenset(p.name for p in model.parameters if p.layer in wanted)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _position(text: str, count: int, default: int) -> int:
    if not text.strip():
        return default
    if text.strip().endswith("%"):
        return round(float(text.strip()[:-1]) / 100 * count)
    position = int(text)
    return position + count if position < 0 else position


def _nearest(word: str, model: Model) -> str:
    names = dict.fromkeys(
        ".".join(spelling.split(".")[:end])
        for p in model.parameters
        for spelling in _spellings(p.name)[-1:]
        for end in range(1, spelling.count(".") + 2)
    )
    return did_you_mean(re.sub(r"[*?\[\]'^$]", "", word), list(names)) if names else ""
