"""A program of torch.export (.pt2), computed by PyTorch."""

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stagetune.artifacts import METADATA
from stagetune.errors import ExportError
from stagetune.inference.runtimes.files import check_input, unreadable

FloatOutputs = dict[str, npt.NDArray[np.float32]]
LARGEST_METADATA = 100_000_000


class TorchExportRuntime:
    """Outputs by name, of uint8 images [n, 3, size, size].

    torch.export.load unpickles what the archive says is pickled, and evaluates its symbolic sizes as Python: a file
    from elsewhere could run commands, so that one is only read where it is trusted.

    Args:
        file: as `stagetune export --to torch-export` writes it.
        outputs: the names of what it gives.
        device: such as cpu or cuda.
        trust: whether whoever made the file may run commands here.

    Attributes:
        metadata: what the file says of the model, as JSON.

    Raises:
        ExportError: where it is not trusted, is damaged, or is somebody else's.
    """

    def __init__(self, file: Path, *, outputs: tuple[str, ...], device: str = "cpu", trust: bool = False) -> None:
        self.metadata = metadata_of(file)
        if not trust:
            raise ExportError(
                f"{file}: a program of torch.export can run commands as it is read; if you trust whoever made it, "
                "load it with trust=True (--trust), else take an .onnx or .safetensors file"
            )
        try:
            program = torch.export.load(str(file))
        except Exception as error:  # a torn archive, or one of another version of torch
            raise unreadable(file, error) from error
        if device != "cpu":
            program = torch.export.passes.move_to_device_pass(program, device)
        self._module, self._names, self.device = program.module(), outputs, torch.device(device)

    def __call__(self, images: npt.NDArray[np.uint8]) -> FloatOutputs:
        with torch.inference_mode():
            found = self._module(torch.from_numpy(np.ascontiguousarray(images)).to(self.device))
        return {name: one.float().cpu().numpy() for name, one in zip(self._names, found, strict=True)}


def metadata_of(file: Path) -> str:
    """What a .pt2 file says of the model, as JSON; nothing else of it is read.

    Raises:
        ExportError: for one that is damaged, or somebody else's.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = [one for one in archive.infolist() if one.filename.endswith(f"extra/{METADATA}")]
            if names and names[0].file_size > LARGEST_METADATA:
                raise ValueError("what it says of itself is too long")
            text = archive.read(names[0]).decode() if names else ""
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise unreadable(file, error) from error
    return text
