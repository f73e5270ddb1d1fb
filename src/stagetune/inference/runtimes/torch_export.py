"""A program of torch.export (.pt2), computed by PyTorch."""

import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export.passes import move_to_device_pass

from stagetune.artifacts import METADATA
from stagetune.errors import WeightsError
from stagetune.inference.runtimes import Images, Outputs
from stagetune.inference.runtimes.files import described, unreadable

LARGEST = 100_000_000  # bytes of what a file says of itself


class TorchExport:
    """A program on a device.

    torch.export.load unpickles what the archive says is pickled, and evaluates sizes in it as Python: a file from
    elsewhere could run commands, so that only one that is trusted is read.

    Args:
        file: as `stagetune export --to torch-export` writes it.
        device: as torch calls it.
        trust: whether whoever made the file may run commands here.

    Attributes:
        description: what the file says of the model.

    Raises:
        WeightsError: where it is not trusted, is damaged, or none of ours.
    """

    name = "torch-export"

    def __init__(self, file: Path, *, device: str = "cpu", trust: bool = False) -> None:
        said = _said(file)
        if not trust:
            raise WeightsError(
                f"{file}: a program of torch.export can run commands as it is read; if you trust where it comes "
                "from, load it with trust=True (--trust), or take an .onnx or .safetensors file"
            )
        try:
            with _quiet():
                program = torch.export.load(str(file))
        except Exception as error:  # a torn archive, or one of another version of torch
            raise unreadable(file, error) from error
        given = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
        self.description = described(file, said, [(node.name, node.meta["val"].shape) for node in given])
        self.about: dict[str, Any] = {"torch": torch.__version__, "device": device}
        self._module = (program if device == "cpu" else move_to_device_pass(program, device)).module()
        self._device = torch.device(device)

    def __call__(self, images: Images) -> Outputs:
        with torch.inference_mode():
            found = self._module(torch.from_numpy(np.ascontiguousarray(images)).to(self._device))
        return {name: one.cpu().numpy() for name, one in zip(self.description.outputs, found, strict=True)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the traceback that torch.export logs of what it cannot read, and raises as well."""
    log = logging.getLogger("torch.export")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _said(file: Path) -> str:
    """What a file says of its model, and nothing else of it; empty of somebody else's."""
    try:
        with zipfile.ZipFile(file) as archive:
            places = [one for one in archive.infolist() if one.filename.endswith(f"/extra/{METADATA}")]
            if sum(place.file_size for place in places) > LARGEST:
                raise ValueError("what it says of itself is too long")
            return archive.read(places[0]).decode() if places else ""
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise unreadable(file, error) from error
