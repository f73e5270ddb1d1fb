"""Weights in a .safetensors file whose header says which network they are of."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from stagetune.artifacts import write_whole
from stagetune.errors import ExportError

LARGEST_HEADER = 100_000_000  # bytes, as in the format's own library


def write_safetensors(file: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a state dict, with text by key in the header, as the format has it.

    Tensors that share memory are written one by one, and in order of their indices, whatever their strides were.
    """
    tensors = {name: value.detach().clone().contiguous() for name, value in state.items()}
    with write_whole(file) as stream:
        stream.write(safetensors.torch.save(tensors, dict(metadata)))


def header_of(file: Path) -> dict[str, str]:
    """The text that a .safetensors file has in its header, by key; its tensors are not read.

    Raises:
        ExportError: for a damaged file, and one of another kind.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > LARGEST_HEADER:
                raise ValueError("its header is too long")
            header: dict[str, Any] = json.loads(stream.read(length))
        text: dict[str, str] = header.get("__metadata__", {})
    except (OSError, struct.error, ValueError, AttributeError, RecursionError) as error:
        raise ExportError(f"{file}: is no .safetensors file, or damaged ({error}); export it again") from error
    return text
