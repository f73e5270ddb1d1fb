"""Images of one class each that a folder, a table or a library lists, decoded once at the start."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from stagetune.data.decoding import look, look_at, read_image, rgb
from stagetune.data.facts import Facts, Range
from stagetune.data.groups import class_groups
from stagetune.data.source import IntArray
from stagetune.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_known: dict[tuple[str, int, int], Facts] = {}  # the runs of a sweep decode a file of one path, size and time once


class Listed(Protocol):
    """One image and what it shows; as text it says where it was listed."""

    @property
    def identity(self) -> str: ...

    @property
    def split(self) -> str | None: ...

    @property
    def group(self) -> str | None: ...

    @property
    def name(self) -> str:
        """Which image this is, for a message."""

    def read(self, scale: Range | None) -> "Tensor":
        """The decoded image, uint8 [3, height, width]; see `read_image`."""

    def facts(self) -> Facts:
        """What it is."""


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

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self, scale: Range | None) -> "Tensor":
        return read_image(self.path, scale=scale)

    def facts(self) -> Facts:
        stat = self.path.stat()
        file = (str(self.path.absolute()), stat.st_size, stat.st_mtime_ns)
        if file not in _known:
            _known[file] = look(self.path)[0]
        return _known[file]


@dataclass(frozen=True)
class Row:
    """An image that a library's data set opens by its index, and what it shows; `where` is the set's name."""

    opened: Callable[[int], Image.Image]
    index: int
    where: str
    identity: str
    split: str | None = None
    group: str | None = None

    def __str__(self) -> str:
        return f"{self.where}[{self.index}]"

    @property
    def name(self) -> str:
        return str(self)

    def read(self, scale: Range | None) -> "Tensor":
        return rgb(self.opened(self.index), scale)

    def facts(self) -> Facts:
        return look_at(self.opened(self.index))[0]


class ImageFiles:
    """A source of what is listed; what cannot be read raises `DataError`, or is left out with `on_error="skip"`.

    Args:
        classes: in their order; where they are not given, in alphabetical order.
    """

    def __init__(
        self,
        name: str,
        origin: str,
        entries: Sequence[Listed],
        *,
        on_error: str = "raise",
        notes: Sequence[str] = (),
        classes: Sequence[str] | None = None,
    ) -> None:
        self.name, self.origin, self.notes = name, origin, list(notes)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            looked = list(pool.map(_facts, entries))
        broken = [f"{entry} ({f})" for entry, f in zip(entries, looked, strict=True) if isinstance(f, Exception)]
        if broken:
            self._report(broken, len(entries), on_error)
        usable = [(entry, f) for entry, f in zip(entries, looked, strict=True) if isinstance(f, Facts)]
        self._entries = [entry for entry, _ in usable]
        self.facts = [facts for _, facts in usable]
        self.scale: Range | None = None  # of the deep ones among them
        self.contents = [facts.content for facts in self.facts]
        self.split = [entry.split for entry in self._entries if entry.split] or None
        present = {entry.identity for entry in self._entries}
        self.classes = [one for one in classes if one in present] if classes else sorted(present)
        position = {name: i for i, name in enumerate(self.classes)}
        self.labels: IntArray = np.array([position[entry.identity] for entry in self._entries], dtype=np.int64)
        groups = [entry.group for entry in self._entries if entry.group is not None]
        self.image_groups = groups if groups and len(groups) == len(self._entries) else None
        self.groups = class_groups(self.labels, self.image_groups)

    def __len__(self) -> int:
        return len(self._entries)

    def image(self, index: int) -> "Tensor":
        return self._entries[index].read(self.scale)

    def describe(self, index: int) -> str:
        return self._entries[index].name

    def _report(self, broken: list[str], total: int, on_error: str) -> None:
        summary = f"{len(broken)} of {total} images cannot be read: "
        some = summary + ", ".join(broken[:5]) + (", ..." if len(broken) > 5 else "")
        if on_error == "raise":
            raise DataError(f"{some}; mend or remove them, or leave them out with data.on_error=skip")
        if len(broken) == total:
            raise DataError(f"{some}; none is left")
        self.notes.append(f"left out, {summary}{', '.join(broken)}")


def _facts(entry: Listed) -> Facts | Exception:
    """What an image is, or why it cannot be read as one."""
    try:
        return entry.facts()
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        return error
