"""What every runtime refuses of a file, in the same words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagetune.errors import ExportError

INPUT = "images"


def check_input(file: Path, metadata: str, inputs: Sequence[tuple[str, Sequence[Any]]]) -> int:
    """The pixels per side of the images that a file of `stagetune export` takes.

    Args:
        file: in the messages.
        metadata: what it says of itself; empty of somebody else's file.
        inputs: by name and shape [batch, 3, size, size].

    Raises:
        ExportError: for a file that is none of ours.
    """
    if not metadata:
        raise ExportError(f"{file}: says nothing of stagetune, so its classes and threshold are unknown; {REMEDY}")
    name, shape = inputs[0] if len(inputs) == 1 else ("", ())
    sides = [str(side) for side in shape[1:]]
    if name != INPUT or len(sides) != 3 or sides[0] != "3" or sides[1] != sides[2] or not sides[1].isdigit():
        raise ExportError(f"{file}: does not take images [n, 3, size, size], but {name or inputs}; {REMEDY}")
    return int(sides[1])


def unreadable(file: Path, error: Exception) -> ExportError:
    """The message for a file that a library cannot read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ExportError(f"{file}: cannot be read ({(lines or [type(error).__name__])[-1][:200]}); {REMEDY}")


REMEDY = "export it again with stagetune export"
