"""Objects that the configuration names by `_target_`: checked before anything is built, then built. No torch."""

import ast
import hashlib
import inspect
import json
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any

from stagetune.errors import ConfigError, StagetuneError, did_you_mean

WORDS = ("_target_", "_args_", "_partial_")


def check_target(path: str, settings: Any, supplied: Collection[str] = (), *, positional: int = 0) -> list[str]:
    """Problems of a `{_target_: package.Class, argument: value}` mapping; nothing is built.

    Args:
        path: where the mapping stands in the configuration, such as `loss`.
        settings: the mapping. `_args_` lists arguments by position, `_partial_: true` makes a `functools.partial`;
            arguments may be, or hold in lists and mappings, such mappings themselves.
        supplied: names of arguments that need not be given, here or below, since `build` is told them.
        positional: so many arguments stand before all others when what `build` returns is called.

    Returns:
        A sentence for each problem.
    """
    if not isinstance(settings, Mapping) or not isinstance(settings.get("_target_"), str):
        return [f"{path}._target_: is missing; name a class or function, {path}._target_=my_package.MyClass"]
    name = settings["_target_"]
    problems = [
        f"{path}.{key}: is not known here; of such words {', '.join(WORDS)} are"
        for key in settings
        if str(key).startswith("_") and key not in WORDS
    ]
    args = settings.get("_args_", [])
    if not isinstance(args, list | tuple):
        return [*problems, f"{path}._args_: expects a list, got {args!r}"]
    given = {key: value for key, value in settings.items() if not str(key).startswith("_")}
    try:
        target = find(name)
    except ConfigError as error:
        problems += [f"{path}._target_={problem}" for problem in error.problems]
    else:
        if not callable(target):
            problems.append(f"{path}._target_={name}: is not a class or function")
        elif (accepted := _parameters(target)) is not None:
            may_lack = None if settings.get("_partial_") else supplied
            problems += _misfits(path, target, accepted, list(given), positional + len(args), may_lack)
    for where, nested in _nested(f"{path}._args_", args):
        problems += check_target(where, nested, supplied)
    for key, value in given.items():
        for where, nested in _nested(f"{path}.{key}", value):
            problems += check_target(where, nested, supplied)
    return problems


def build(settings: Mapping[str, Any], **supplied: Any) -> Callable[..., Any]:
    """The target with its settings bound, and all that they name built first.

    Args:
        settings: see `check_target`, which has found nothing wrong.
        supplied: given to each target where it has an argument of that name and the settings do not say it.

    Returns:
        What makes the object; call it with the arguments that stand before all others, if any. With `_partial_` and
        none of these it makes a `functools.partial`.

    Raises:
        ConfigError: when it is called and the target refuses, in one line.
    """
    return partial(_make, find(settings["_target_"]), settings, supplied)


def fingerprint(settings: Mapping[str, Any]) -> str:
    """A digest of the settings and of the code of all that they name, so that what changes is noticed."""
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True, default=repr).encode(), digest_size=16)
    for _, nested in _nested("", settings):
        for name in _names(nested):
            digest.update(name.encode())
            for file in code_of(str(getattr(find(name), "__module__", ""))):
                digest.update(file.read_bytes())
    return digest.hexdigest()


def code_of(module: str) -> list[Path]:
    """The file of a module, and those that it imports, directly or through others, if they are not installed."""
    waiting, found = [module], dict[Path, None]()
    while waiting:
        loaded = sys.modules.get(waiting.pop())
        file = Path(getattr(loaded, "__file__", None) or "")
        if loaded is None or file.suffix != ".py" or file in found or (found and _is_installed(file)):
            continue
        found[file] = None
        package = f"{loaded.__name__}." if hasattr(loaded, "__path__") else loaded.__name__
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package.rsplit(".", node.level)[0] + "." if node.level else ""
                base = f"{above}{node.module or ''}".strip(".")
                waiting += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return list(found)


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(path) for path in sysconfig.get_paths().values())


def find(name: str) -> Any:
    """What a dotted name stands for; this alone imports by name.

    Raises:
        ConfigError: if there is no such thing, with the nearest name; or if a module of one's own fails as it is
            imported, with its file and line.
    """
    path, *rest = parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError([f"{name}: cannot be imported; it is no dotted name, as my_package.MyClass"])
    found: Any = _module(name, path)
    if found is None:
        near = get_close_matches(path, [module.name for module in pkgutil.iter_modules()], n=1, cutoff=0.8)
        hint = f"did you mean {near[0]}?" if near else "install it, or put its folder on PYTHONPATH"
        raise ConfigError([f"{name}: cannot be imported; there is no module {path}; {hint}"])
    for part in rest:
        inner = _inner(name, found, path, part)
        if inner is None:
            known = [key for key in dir(found) if not key.startswith("_")]
            known += [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]
            near_name = did_you_mean(part, list(dict.fromkeys(known)), f"{path}.")
            raise ConfigError([f"{name}: cannot be imported; {near_name}"])
        found, path = inner, f"{path}.{part}"
    return found


def _inner(name: str, found: Any, path: str, part: str) -> Any:
    """What is called `part` in what stands at `path`, None if nothing is."""
    try:
        return getattr(found, part)
    except AttributeError:
        return _module(name, f"{path}.{part}") if isinstance(found, ModuleType) else None
    except Exception as error:  # of a module that imports its parts as they are asked for
        raise ConfigError([f"{name}: {_failure(error)}"]) from error


def _module(name: str, path: str) -> ModuleType | None:
    """The module at `path`, None if there is none; raises `ConfigError` for one that fails."""
    try:
        return import_module(path)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{path}.".startswith(f"{error.name}."):
            return None
        raise ConfigError([f"{name}: {_failure(error)}"]) from error
    except (Exception, SystemExit) as error:  # a module of somebody's own may do anything
        raise ConfigError([f"{name}: {_failure(error)}"]) from error


def _failure(error: BaseException) -> str:
    """Where the import of a module has failed: the line of the innermost module that was being read."""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        innermost = [frame for frame in frames if frame.name == "<module>"] or frames
        where = f"{innermost[-1].filename}, line {innermost[-1].lineno}"
    return f"{where}: {_in_one_line(error)}"


def _in_one_line(error: BaseException) -> str:
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _parameters(target: Any) -> Mapping[str, Parameter] | None:
    """What it can be told; None where it does not say."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # of some that are written in C
        return None


def _misfits(
    path: str,
    target: Callable[..., Any],
    accepted: Mapping[str, Parameter],
    given: list[str],
    positional: int,
    may_lack: Collection[str] | None,
) -> Iterator[str]:
    """Arguments that are unknown, given twice, too many or lacking; with `may_lack` None any may lack."""
    kinds = {parameter.kind for parameter in accepted.values()}
    first = [name for name, p in accepted.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_name = [name for name, p in accepted.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    taken = first[:positional]
    called = str(getattr(target, "__name__", target))
    plain = [parameter.replace(annotation=Parameter.empty) for parameter in accepted.values()]
    words = f"{called}{inspect.Signature(plain)}"  # as MyLoss(margin, scale=1)
    if positional > len(first) and Parameter.VAR_POSITIONAL not in kinds:
        yield f"{path}._args_: are too many for {words}"
    for key in given:
        if key in by_name and key in taken:
            yield f"{path}.{key}: is given by position already, to {words}"
        elif key not in by_name and Parameter.VAR_KEYWORD not in kinds:
            valid = [name for name in by_name if name not in taken]
            near = did_you_mean(key, valid, f"{path}.") if valid else "it takes none"
            yield f"{path}.{key}: is no argument of {called}; {near}"
    lacking = [
        name
        for name, parameter in accepted.items()
        if parameter.default is Parameter.empty
        and parameter.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        and name not in {*taken, *given, *(accepted if may_lack is None else may_lack)}
    ]
    if lacking:
        later = (
            "" if inspect.isclass(target) else f"; if it is to be called with that later, add {path}._partial_=true"
        )
        yield f"{path}: lacks {' and '.join(lacking)}: {words}{later}"


def _nested(path: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The outermost mappings with a `_target_` in a value, and where they stand."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield path, value
        else:
            for key, item in value.items():
                yield from _nested(f"{path}.{key}", item)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _nested(f"{path}[{i}]", item)


def _names(settings: Mapping[str, Any]) -> Iterator[str]:
    """All targets of a mapping, its own first."""
    yield settings["_target_"]
    for _, nested in _nested("", [value for key, value in settings.items() if key != "_target_"]):
        yield from _names(nested)


def _make(target: Any, settings: Mapping[str, Any], supplied: Mapping[str, Any], *positional: Any) -> Any:
    """Call a target with all that its settings name, built depth first."""
    args = [_built(item, supplied) for item in settings.get("_args_", [])]
    given = {key: _built(value, supplied) for key, value in settings.items() if key not in WORDS}
    taken = list(_parameters(target) or {})[len(positional) + len(args) :]
    fitting = {key: value for key, value in supplied.items() if key in taken}
    made = partial(target, *positional, *args, **fitting | given)
    if settings.get("_partial_") and not positional:
        return made
    try:
        return made()
    except StagetuneError:
        raise
    except Exception as error:  # a class of somebody's own may raise anything
        raise ConfigError([f"{settings['_target_']}: {_in_one_line(error)}"]) from error


def _built(value: Any, supplied: Mapping[str, Any]) -> Any:
    """A value with all mappings that have a `_target_` built."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return build(value, **supplied)()
        return {key: _built(item, supplied) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_built(item, supplied) for item in value]
    return value
