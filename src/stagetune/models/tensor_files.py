"""Files of tensors and checkpoints: read without executing anything, and only where they hold what was written."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from safetensors.torch import load_file

from stagetune.artifacts import RunDir
from stagetune.errors import WeightsError

ZIP = b"PK\x03\x04"  # with what files of torch.save begin; those of torch before 1.6 have no checksums
FOLDER = 0x10  # of the attributes of an entry
CHUNK = 2**20


class DamagedFile(WeightsError):
    """A file that does not hold what was written to it.

    Args:
        file: which it is.
        why: how that shows.
    """

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"{file}: is damaged ({why}); {_instead(file)}")
        self.why = f"it is damaged: {why}"


def read_tensors(file: Path, *, mmap: bool = False) -> Any:
    """What a .safetensors file or one of torch.save holds, on the CPU; never executes anything.

    Args:
        file: which it is.
        mmap: leave tensors on the disk until they are used, where torch can.

    Raises:
        DamagedFile: where a checksum in it says so.
        UnpicklingError: where it holds other objects.
        Exception: of many kinds where it is no such file.
    """
    if file.suffix == ".safetensors":  # has no checksums
        return load_file(file)
    check_whole(file)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def read_checkpoint(file: Path, *, instead: str, mmap: bool = False) -> dict[str, Any]:
    """All of a checkpoint.

    Args:
        file: which it is.
        instead: what to do where it is none, for the message.
        mmap: leave tensors on the disk until they are used.

    Raises:
        WeightsError: for a file that is none or is damaged; nothing of it was executed.
    """
    try:
        content = read_tensors(file, mmap=mmap)
    except DamagedFile:
        raise
    except Exception as error:  # a foreign or torn file fails in one of many ways inside torch.load
        why = str(error).partition(". ")[0] or "it ends too early"
        if isinstance(error, UnpicklingError):  # torch's words for it end with the advice to trust the file
            why = "not plain data, or damaged"
        raise WeightsError(f"{file}: is not a checkpoint of this project ({why}); {instead}") from error
    return content if isinstance(content, dict) else {}


def check_whole(file: Path) -> None:
    """Raise `DamagedFile` where the checksums of a file of torch.save are not those of its data.

    torch writes them and does not look at them: a bit that was flipped on the disk would be a weight of 1e37.
    """
    with file.open("rb") as opened:
        if opened.read(len(ZIP)) != ZIP:
            return
    try:
        with ZipFile(file) as archive:
            for entry in archive.infolist():
                if entry.compress_type != ZIP_STORED:  # a little file could unpack for hours
                    raise BadZipFile(f"{entry.filename} is compressed, and torch.save compresses nothing")
                if entry.external_attr & FOLDER:  # which holds no tensor
                    raise BadZipFile(f"{entry.filename} is marked as a folder")
                if entry.CRC:  # torch.save can be told to leave them out
                    with archive.open(entry) as opened:
                        while opened.read(CHUNK):  # which compares it at the end
                            pass
    except Exception as error:  # zipfile fails in one of many ways on a damaged file
        raise DamagedFile(file, str(error) or "it ends too early") from error


def _instead(file: Path) -> str:
    """What to do about a damaged file; a run's two checkpoints can stand in for each other in part."""
    run_dir, again = RunDir(file.parent.parent), "copy it again from where it is whole"
    if file == run_dir.best and run_dir.last.exists():
        return f"{again}, or take {run_dir.last}, the weights of the last epoch"
    if file == run_dir.last and run_dir.best.exists():
        return f"{again}, or begin a new run with the best weights, model.weights={run_dir.best}"
    return again
