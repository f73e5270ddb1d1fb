"""What every runtime asks of a file that `stagetune export` has written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagetune.errors import WeightsError
from stagetune.inference.description import Description

INPUT = "images"
REMEDY = "export it again with stagetune export"


def described(
    file: Path, metadata: str, inputs: Sequence[tuple[str, Sequence[Any]]], outputs: Sequence[str] | None = None
) -> Description:
    """What a file says of its model, held against what the model takes and gives.

    Args:
        file: in the messages.
        metadata: what it says of itself; empty of somebody else's file.
        inputs: by name and shape [batch, 3, size, size].
        outputs: their names; None where the format has none.

    Raises:
        WeightsError: for a file that is none of ours, or was changed.
    """
    if not metadata:
        raise WeightsError(f"{file}: says nothing of stagetune, so its classes and threshold are unknown; {REMEDY}")
    try:
        found = Description.from_json(metadata)
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    size = found.preprocessing.image_size
    taken = [(name, [str(side) for side in shape[1:]]) for name, shape in inputs]
    if taken != [(INPUT, ["3", str(size), str(size)])]:
        shapes = ", ".join(f"{name} [n, {', '.join(sides)}]" for name, sides in taken)
        raise WeightsError(f"{file}: takes {shapes}, and says that it takes {INPUT} [n, 3, {size}, {size}]; {REMEDY}")
    if outputs is not None and tuple(outputs) != found.outputs:
        given, said = (", ".join(names) for names in (outputs, found.outputs))
        raise WeightsError(f"{file}: gives {given}, and says that it gives {said}; {REMEDY}")
    return found


def unreadable(file: Path, error: Exception) -> WeightsError:
    """The message for a file that a library cannot read."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = (lines or [type(error).__name__])[-1][:200]
    return WeightsError(f"{file}: cannot be read, it is damaged or of another kind ({reason}); {REMEDY}")
