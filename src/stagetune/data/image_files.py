"""Image files, each of one class: what a folder or a table lists, decoded once at the start."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from stagetune.data.groups import class_groups
from stagetune.data.source import IntArray
from stagetune.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_known: dict[tuple[str, int, int], str] = {}  # the runs of a sweep decode a file of one path, size and time once


@dataclass(frozen=True)
class Entry:
    """A file and what it shows; `group` is the image's, `where` says for a message where it was listed."""

    path: Path
    identity: str
    split: str | None = None
    group: str | None = None
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}{self.path}"


class ImageFiles:
    """A source of files; those that cannot be read raise `DataError`, or are left out with `on_error="skip"`."""

    def __init__(
        self, name: str, origin: str, entries: Sequence[Entry], *, on_error: str = "raise", notes: Sequence[str] = ()
    ) -> None:
        self.name, self.origin, self.notes = name, origin, list(notes)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            digests = list(pool.map(_digest, (entry.path for entry in entries)))
        broken = [f"{entry} ({d})" for entry, d in zip(entries, digests, strict=True) if isinstance(d, Exception)]
        if broken:
            self._report(broken, len(entries), on_error)
        usable = [(entry, d) for entry, d in zip(entries, digests, strict=True) if isinstance(d, str)]
        self._entries = [entry for entry, _ in usable]
        self.contents = [digest for _, digest in usable]
        self.split = [entry.split for entry in self._entries if entry.split] or None
        self.classes = sorted({entry.identity for entry in self._entries})
        position = {name: i for i, name in enumerate(self.classes)}
        self.labels: IntArray = np.array([position[entry.identity] for entry in self._entries], dtype=np.int64)
        groups = [entry.group for entry in self._entries if entry.group is not None]
        self.image_groups = groups if groups and len(groups) == len(self._entries) else None
        self.groups = class_groups(self.labels, self.image_groups)

    def __len__(self) -> int:
        return len(self._entries)

    def image(self, index: int) -> "Tensor":
        return read_image(self._entries[index].path)

    def describe(self, index: int) -> str:
        return str(self._entries[index].path)

    def _report(self, broken: list[str], total: int, on_error: str) -> None:
        summary = f"{len(broken)} of {total} images cannot be read: "
        some = summary + ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        if on_error == "raise":
            raise DataError(f"{some}; mend or remove them, or leave them out with data.on_error=skip")
        if len(broken) == total:
            raise DataError(f"{some}; none is left")
        self.notes.append(f"left out, {summary}{', '.join(broken)}")


def read_image(path: Path) -> "Tensor":
    """The image as uint8 [3, height, width]: turned as EXIF says, any mode made RGB, alpha laid on white."""
    with Image.open(path) as opened:
        return rgb(opened)


def rgb(opened: Image.Image) -> "Tensor":
    """The same of an image that is open."""
    import torch  # here: data can be described without it

    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16-bit gray (scans): PIL's own conversion would clip at 255
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray((deep // 257).clip(0, 255).astype(np.uint8))
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        drawn = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def _digest(path: Path) -> str | Exception:
    """A key of the decoded pixels, or why the file cannot be read as an image."""
    try:
        stat = path.stat()
        file = (str(path.absolute()), stat.st_size, stat.st_mtime_ns)
        if file not in _known:
            pixels = read_image(path)
            shape = np.array(pixels.shape, dtype=np.int64).tobytes()
            _known[file] = hashlib.blake2b(shape + pixels.numpy().tobytes(), digest_size=16).hexdigest()
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        return error
    return _known[file]
