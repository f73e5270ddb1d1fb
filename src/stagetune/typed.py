"""Plain nested values as dataclasses of settings; what does not fit is collected, not raised. No torch."""

import types
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from math import isfinite
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from stagetune.artifacts import RENAMED
from stagetune.errors import did_you_mean


def choice(default: str | None, *others: str) -> Any:
    """A string field that takes one of the given values."""
    given = others if default is None else (default, *others)
    return field(default=default, metadata={"choices": given})


def number(default: float | None, low: float, high: float = float("inf")) -> Any:
    """A numeric field with an allowed range, both ends included."""
    return field(default=default, metadata={"range": (low, high)})


class Settings:
    """What a part can be told, as a dataclass derived from this. A name that is no setting cannot be set either."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = [entry.name for entry in fields(self)]  # type: ignore[arg-type]
        if name not in known:
            raise AttributeError(f"{name}: no such setting of {type(self).__name__}; {did_you_mean(name, known)}")
        object.__setattr__(self, name, value)


def key_problem(key: str, kind: Any, path: str = "") -> str | None:
    """What is wrong with the dotted `key`, such as `data.image_sizee`; None if it names a setting."""
    first, _, rest = key.partition(".")
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if first not in hints:
            if new := RENAMED.get(path, {}).get(first):
                return f"{_join(path, first)}: is called {_join(path, new)} now"
            where = f" in {path}" if path else ""
            return f"{_join(path, first)}: no such key{where}; {did_you_mean(first, list(hints), _dot(path))}"
        kind = _given(hints[first])
    elif get_origin(kind) is list:
        kind = get_args(kind)[0]
    else:  # a free mapping, or a plain value below which nothing can stand
        return None
    return key_problem(rest, kind, _join(path, first)) if rest else None


def typed(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """`value` as the annotated type `kind`; what does not fit is added to `problems`."""
    if value is None and kind is not _given(kind):
        return None
    kind = _given(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _typed_mapping(kind, value, path, problems)
    if get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            problems.append(f"{path}: expects a list, got {value!r}")
            return value
        (item,) = get_args(kind)
        if item is Any:
            return list(value)
        return [typed(item, entry, f"{path}[{i}]", problems) for i, entry in enumerate(value)]
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{path}: expects keys and values, got {value!r}")
            return value
        return dict(value)
    if not isinstance(value, bool):
        number: Any = value  # of numpy, too: what is stored is plain
        if kind is int and isinstance(value, Integral):
            return int(number)
        if kind is float and (isinstance(value, float) or (isinstance(value, Real) and abs(number) < 2**63)):
            return float(number)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        problems.append(f"{path}: expects {words[kind]}, got {value!r}")
    return value


def _given(kind: Any) -> Any:
    """The type that an optional value has where it is given."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(option for option in get_args(kind) if option is not types.NoneType)
    return kind


def _typed_mapping(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{path or 'configuration'}: expects keys and values, got {value!r}")
        return value
    hints = get_type_hints(kind)
    for key in value:
        if problem := key_problem(str(key), kind, path):
            problems.append(problem)
    converted = {}
    for entry in fields(kind):
        if entry.name not in value:
            continue
        where, before = _join(path, entry.name), len(problems)
        item = typed(hints[entry.name], value[entry.name], where, problems)
        converted[entry.name] = item
        if len(problems) > before or item is None:
            continue
        choices, allowed = entry.metadata.get("choices"), entry.metadata.get("range")
        if choices and item not in choices:
            problems.append(f"{where}={item}: no such choice; {did_you_mean(item, choices)}")
        if allowed and not isfinite(item):
            problems.append(f"{where}={item}: must be a finite number")
        elif allowed and not allowed[0] <= item <= allowed[1]:
            upper = "" if allowed[1] == float("inf") else f" and at most {allowed[1]}"
            problems.append(f"{where}={item}: must be at least {allowed[0]}{upper}")
    return kind(**converted)


def _dot(path: str) -> str:
    return f"{path}." if path else ""


def _join(path: str, key: str) -> str:
    return f"{path}[{key}]" if key.isdigit() else f"{_dot(path)}{key}"
