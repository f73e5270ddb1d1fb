"""Plain nested values as dataclasses of settings; what does not fit is collected, not raised. No torch."""

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from functools import cache
from math import isfinite
from numbers import Integral, Real
from reprlib import Repr
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints, is_typeddict

from stagetune.errors import did_you_mean

RENAMED = {"data": {"crossed": "spliced", "identity_depth": "depth"}}  # settings by their older name
_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)  # which evaluates annotations anew each time
_REPR = Repr()  # of what is deep or endless, a part
_REPR.maxlist = _REPR.maxdict = _REPR.maxtuple = 20
_REPR.maxstring = _REPR.maxother = 200


def choice(default: str | None, *others: str, otherwise: str = "") -> Any:
    """A string field that takes one of the given values; `otherwise` says how what is not among them goes in."""
    given = others if default is None else (default, *others)
    return field(default=default, metadata={"choices": given, "otherwise": otherwise})


def number(default: float | None, low: float, high: float = float("inf")) -> Any:
    """A numeric field with an allowed range, both ends included."""
    return field(default=default, metadata={"range": (low, high)})


class Settings:
    """What a part can be told, as a dataclass derived from this. A name that is no setting cannot be set either."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = [entry.name for entry in fields(self)]  # type: ignore[arg-type]
        if name not in known:
            raise AttributeError(
                f"{name}: no such setting of {getattr(self, 'name', '')}; {did_you_mean(name, known)}"
            )
        object.__setattr__(self, name, value)

    def differs(self, name: str) -> bool:
        """Whether a setting has another value than its default."""
        entry = next(entry for entry in fields(self) if entry.name == name)  # type: ignore[arg-type]
        return bool(getattr(self, name) != entry.default)


class Chosen(Protocol):
    """Which of several dataclasses stands at a place, where one is chosen by name."""

    def __call__(self, path: str) -> type | None:
        """The class that stands at a dotted path; None where the annotation says it."""

    def foreign(self, path: str, key: str) -> str | None:
        """What is wrong with a key that the one chosen there does not read; None where nothing is chosen."""

    def meant(self, path: str, value: Any) -> str | None:
        """How a value goes in that is no choice at a path; None where that is not known."""


class _Annotated:
    """What stands where is said by annotations alone."""

    def __call__(self, path: str) -> type | None:
        return None

    def foreign(self, path: str, key: str) -> str | None:
        return None

    def meant(self, path: str, value: Any) -> str | None:
        return None


ANNOTATED: Chosen = _Annotated()


def key_problem(key: str, kind: Any, path: str = "", chosen: Chosen = ANNOTATED) -> str | None:
    """What is wrong with the dotted `key`, such as `data.image_sizee`; None if it names a setting."""
    first, _, rest = key.partition(".")
    where = _join(path, first)
    if is_dataclass(kind):
        known = [entry.name for entry in fields(kind)]
        if first not in known:
            inside = f" in {path}" if path else ""
            wrong = f"no such key{inside}; {did_you_mean(first, known, _dot(path))}"
            return f"{where}: {chosen.foreign(path, first) or wrong}"
        kind = chosen(where) or _given(_hints(kind)[first])
    elif get_origin(kind) is list:
        kind = get_args(kind)[0]
    else:  # a free mapping, or a plain value below which nothing can stand
        return None
    return key_problem(rest, kind, where, chosen) if rest else None


def typed(kind: Any, value: Any, path: str, problems: list[str], chosen: Chosen = ANNOTATED) -> Any:
    """`value` as the annotated type `kind`, or as what is `chosen`; what does not fit is added to `problems`."""
    if value is None and types.NoneType in get_args(kind):
        return None
    kind = chosen(path) or _given(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _typed_mapping(kind, value, path, problems, chosen)
    if is_typeddict(kind):
        return _typed_keys(kind, value, path, problems)
    if get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            problems.append(f"{path}: expects a list, got {_REPR.repr(value)}")
            return value
        (item,) = get_args(kind)
        if item is Any:
            return list(value)
        if item is str:  # names may be numbers, such as those of patients
            value = [
                str(entry) if isinstance(entry, int) and not isinstance(entry, bool) else entry for entry in value
            ]
        return [typed(item, entry, f"{path}[{i}]", problems, chosen) for i, entry in enumerate(value)]
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{path}: expects keys and values, got {_REPR.repr(value)}")
            return value
        inner = get_args(kind)[1]
        return {str(key): typed(inner, item, _join(path, str(key)), problems, chosen) for key, item in value.items()}
    if not isinstance(value, bool):
        number: Any = value  # of numpy, too: what is stored is plain
        if kind is int and isinstance(value, Integral) and -(2**63) <= number < 2**64:
            return int(number)
        if kind is float and (isinstance(value, float) or (isinstance(value, Real) and abs(number) < 2**63)):
            return float(number)
    if kind is int or not isinstance(value, kind):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        problems.append(f"{path}: expects {words.get(kind, kind.__name__)}, got {_REPR.repr(value)}")
    return value


def _given(kind: Any) -> Any:
    """The type that an optional value has where it is given."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(option for option in get_args(kind) if option is not types.NoneType)
    return kind


def _typed_mapping(kind: Any, value: Any, path: str, problems: list[str], chosen: Chosen) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{path or 'configuration'}: expects keys and values, got {_REPR.repr(value)}")
        return value
    hints = _hints(kind)
    for key in value:
        if problem := key_problem(str(key), kind, path, chosen):
            problems.append(problem)
    converted = {}
    for entry in fields(kind):
        if entry.name not in value:
            continue
        where, before = _join(path, entry.name), len(problems)
        choices, allowed = entry.metadata.get("choices"), entry.metadata.get("range")
        given = value[entry.name]
        if (
            isinstance(given, int) and choices and any(one.isdecimal() for one in choices)
        ):  # YAML takes 2 for a number
            given = str(given)
        item = typed(hints[entry.name], given, where, problems, chosen)
        converted[entry.name] = item
        if len(problems) > before or item is None:
            continue
        if choices and item not in choices:
            near = chosen.meant(where, item) or did_you_mean(item, choices, otherwise=entry.metadata["otherwise"])
            problems.append(f"{where}={item}: no such choice; {near}")
        if allowed and not isfinite(item):
            problems.append(f"{where}={item}: must be a finite number")
        elif allowed and not allowed[0] <= item <= allowed[1]:
            upper = "" if allowed[1] == float("inf") else f" and at most {allowed[1]}"
            problems.append(f"{where}={item}: must be at least {allowed[0]}{upper}")
    required = [entry for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING]
    if missing := [entry.name for entry in required if entry.name not in value]:
        problems += [f"{_join(path, name)}: is missing" for name in missing]
        return value
    return kind(**converted)


def _typed_keys(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """A mapping of which some keys are known: others stay as they are, as those of a later version."""
    if not isinstance(value, Mapping):
        problems.append(f"{path}: expects keys and values, got {_REPR.repr(value)}")
        return value
    problems += [f"{_join(path, name)}: is missing" for name in sorted(kind.__required_keys__ - value.keys())]
    known = {name: of for name, of in _hints(kind).items() if name in value}
    found = {name: typed(of, value[name], _join(path, name), problems) for name, of in known.items()}
    return {**value, **found}


def _dot(path: str) -> str:
    return f"{path}." if path else ""


def _join(path: str, key: str) -> str:
    return f"{path}[{key}]" if key.isdigit() else f"{_dot(path)}{key}"
