"""Libraries that not every installation has."""

from importlib import import_module
from typing import Any

from stagetune.errors import MissingError


def need(library: str, *, what: str, extra: str) -> Any:
    """A library that an extra brings.

    Args:
        library: by the name that it is imported by.
        what: wants it, as a sentence begins with it.
        extra: of stagetune, which has it.

    Raises:
        MissingError: where it is not installed.
    """
    try:
        return import_module(library)
    except ImportError as error:
        missing = library.partition(".")[0]
        raise MissingError(f"{what} needs {missing}; pip install 'stagetune[{extra}]'") from error
