"""What a class's code mentions, itself or in what it calls: whether it may log a metric where no trial sees it."""

import inspect
from collections.abc import Set
from types import CellType, CodeType
from typing import Any

LOGS = {"log", "log_dict", "callback_metrics"}


def mentions(owner: Any, prefix: str | tuple[str, ...], words: Set[str], but: Set[str] = frozenset()) -> bool:
    """Whether a method of a class, or a function that an object holds, mentions one of `words`.

    Itself or in what it calls; of those whose names begin so, without those in `but` and Lightning's own.
    """
    found = own_of(owner) if isinstance(owner, type) else dict(vars(owner))
    hooks = [value for name, value in found.items() if name.startswith(prefix) and name not in but]
    return any(_mentions(hook, words, found, set()) for hook in hooks)


def own_of(kind: type) -> dict[str, Any]:
    """What a class has that is neither Lightning's nor torch's."""
    known = ("lightning.", "pytorch_lightning.", "torch.", "builtins")
    own = [base for base in kind.__mro__ if not base.__module__.startswith(known)]
    return {name: value for base in reversed(own) for name, value in vars(base).items()}


def _mentions(function: Any, words: Set[str], methods: dict[str, Any], seen: set[int]) -> bool:
    """Whether a function's code, or that of a function or method that it names, has one of the words."""
    function = inspect.unwrap(function) if callable(function) else function
    code = getattr(function, "__code__", None)
    if code is None or id(code) in seen:
        return False
    seen.add(id(code))
    names = _names(code)
    if names & words:
        return True
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    known = {**function.__globals__, **methods}
    called = [known[name] for name in names if name in known]
    return any(_mentions(other, words, methods, seen) for other in (*called, *cells))


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _names(code: CodeType) -> set[str]:
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    words = {constant for constant in code.co_consts if isinstance(constant, str)}  # for getattr
    return set(code.co_names).union(words & LOGS, *inner)
