"""What a stage opens or freezes: selectors resolved to the names of parameters. Pure, no torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from stagetune.errors import ScheduleError, did_you_mean
from stagetune.schedule.model import BACKBONE, Model, Parameter
from stagetune.schedule.spec import ALL, HEAD, SELECTORS


def select(selector: Any, model: Model) -> frozenset[str]:
    """The parameters that one selector names.

    Args:
        selector: a block, `head` or `all`, or one of `last: N` and `fraction: share` (the last layers of the
            backbone), `index: ranges` (its layers from 0, as 0:10, -5: or 0%:25%), `match: globs` (on names of
            modules or parameters within the backbone, which may stand behind the label of their block) and
            `params: patterns` (a parameter's whole name, such as backbone.layer4.0.conv1.weight, or a regular
            expression that `re.match` finds in it).
        model: whose parameters are looked at.

    Returns:
        Their names, held ones among them.

    Raises:
        ScheduleError: for a selector that cannot be understood, and for one that names nothing.
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
    except (TypeError, ValueError, OverflowError, re.error) as error:
        raise ScheduleError(f"{kind}: {value!r} cannot be understood ({error})") from error
    if not found:
        raise ScheduleError(f"{kind}: {value} names nothing; the backbone has {len(model.layers)} layers")
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
    return frozenset().union(*(_glob(str(glob), model) for glob in _listed(value)))


def _glob(glob: str, model: Model) -> frozenset[str]:
    inner = [parameter for parameter in model.parameters if parameter.name.startswith(BACKBONE)]
    found = frozenset(parameter.name for parameter in inner if _is_named(parameter, glob))
    if not found:
        raise ScheduleError(f"match: {glob} matches nothing; {_right_glob(glob, model)}")
    return found


def _params(value: Any, model: Model) -> frozenset[str]:
    return frozenset().union(*(_param(str(pattern), model) for pattern in _listed(value)))


def _param(pattern: str, model: Model) -> frozenset[str]:
    """One name in full, else all that the pattern matches from their beginning."""
    names = [p.name for p in model.parameters]
    found = frozenset([pattern] if pattern in names else filter(re.compile(pattern).match, names))
    if not found:
        raise ScheduleError(f"params: {pattern} matches nothing; {_right_pattern(pattern, names)}")
    return found


_RESOLVE: Mapping[str, Callable[[Any, Model], frozenset[str]]] = {
    "last": _last,
    "fraction": _fraction,
    "index": _index,
    "match": _match,
    "params": _params,
}


def _fits(name: str, glob: str) -> bool:
    """Whether the glob matches the name or that of a module that it belongs to."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), glob) for end in range(1, len(parts) + 1))


def _is_named(parameter: Parameter, glob: str) -> bool:
    """Whether the glob matches its name, or one that begins with the label of its block does behind that label."""
    name, block = parameter.name.removeprefix(BACKBONE), parameter.block
    return _fits(name, glob) or (glob.startswith(f"{block}.") and _fits(f"{block}.{name}", glob))


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


def _within(model: Model) -> dict[str, str]:
    """The backbone's parameters, each with its name within it."""
    return {p.name: p.name.removeprefix(BACKBONE) for p in model.parameters if p.name.startswith(BACKBONE)}


def _right_pattern(pattern: str, names: Sequence[str]) -> str:
    """How to write what matches nothing: with the leading `backbone.`, else the nearest name."""
    prefix = re.escape(BACKBONE) if "\\" in pattern else BACKBONE
    inner = pattern.removeprefix("^")
    right = prefix + (f"(?:{inner})" if "|" in inner else inner)
    if any(re.match(right, name) for name in names):
        return f"names are whole here: {right}"
    return did_you_mean(_letters(pattern), names)


def _right_glob(glob: str, model: Model) -> str:
    """How to write what matches nothing: without `backbone.`, by other words for the head, else the nearest name."""
    inner = _within(model).values()
    right = glob.removeprefix(BACKBONE)
    if any(_fits(own, right) for own in inner):
        return f"globs are on names within the backbone: {right}"
    if any(_fits(p.name, glob) for p in model.parameters if not p.name.startswith(BACKBONE)):
        pattern = re.escape(glob).replace(r"\*", ".*")
        return f"globs are on names within the backbone; name the head, or say params: {pattern}"
    names = {".".join(own.split(".")[:end]): None for own in inner for end in range(1, own.count(".") + 2)}
    return did_you_mean(_letters(glob), list(dict.fromkeys([*model.ordered_blocks, *names])))


def _letters(expression: str) -> str:
    return re.sub(r"[\\*?\[\]'^$]", "", expression)
