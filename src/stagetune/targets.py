"""Objects that the configuration names by `_target_`, checked before anything is built."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object

from stagetune.errors import ConfigError, did_you_mean


def check_target(path: str, settings: Mapping[str, Any]) -> list[str]:
    """Problems of a `{_target_: package.Class, argument: value}` mapping that stands at `path`."""
    try:
        target = get_object(str(settings["_target_"]))
    except (HydraException, ImportError, ValueError):
        return [f"{path}._target_={settings['_target_']}: cannot be imported; {_nearest(str(settings['_target_']))}"]
    if not callable(target):
        return [f"{path}._target_={settings['_target_']}: is not a class or function"]
    accepted = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values()):
        return []
    return [
        f"{path}.{key}: is no argument of {target.__name__}; {did_you_mean(key, list(accepted), f'{path}.')}"
        for key in settings
        if key != "_target_" and key not in accepted
    ]


def _nearest(target: str) -> str:
    """Where a dotted path goes wrong: the names that its longest importable part has."""
    module, _, name = target.rpartition(".")
    try:
        found = import_module(module)
    except (ImportError, ValueError):
        return f"there is no module {module or target}"
    return did_you_mean(name, [key for key in vars(found) if not key.startswith("_")], f"{module}.")


def build(settings: Mapping[str, Any], **more: Any) -> Callable[..., Any]:
    """The target with its settings bound; call it with what is left. Raises `ConfigError` if it refuses."""
    target = get_object(str(settings["_target_"]))
    arguments = {key: value for key, value in settings.items() if key != "_target_"} | more

    return partial(_make, target, str(settings["_target_"]), arguments)


def _make(target: Callable[..., Any], name: str, arguments: Mapping[str, Any], *positional: Any) -> Any:
    try:
        return target(*positional, **arguments)
    except (TypeError, ValueError, ImportError) as error:  # ImportError: an optional package is missing
        raise ConfigError([f"{name}: {error}"]) from error
