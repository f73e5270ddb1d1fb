"""Images of one class each that a folder, a table or a library lists, decoded once at the start."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from stagetune.data.decoding import Facts, digest, facts_of, read_image, rgb
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

    def read(self) -> "Tensor":
        """The decoded image, uint8 [3, height, width]."""

    def facts(self) -> Facts:
        """What is known of that image."""


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

    def read(self) -> "Tensor":
        return read_image(self.path)

    def facts(self) -> Facts:
        stat = self.path.stat()
        file = (str(self.path.absolute()), stat.st_size, stat.st_mtime_ns)
        if file not in _known:
            _known[file] = facts_of(self.path)
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

    def read(self) -> "Tensor":
        return rgb(self.opened(self.index))

    def facts(self) -> Facts:
        image = self.opened(self.index)
        pixels = rgb(image)
        flat = bool((pixels == pixels[:, :1, :1]).all())
        return Facts(digest(pixels), str(image.format or ""), image.mode, *image.size, is_flat=flat)


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
            found = list(zip(entries, pool.map(_facts, entries), strict=True))
        self.unreadable = [f"{entry} ({facts})" for entry, facts in found if isinstance(facts, Exception)]
        if self.unreadable:
            self._report(self.unreadable, len(entries), on_error)
        usable = [(entry, facts) for entry, facts in found if isinstance(facts, Facts)]
        self._entries = [entry for entry, _ in usable]
        self.facts = [facts for _, facts in usable]
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
        return self._entries[index].read()

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
    """What is known of an image, or why it cannot be read as one."""
    try:
        return entry.facts()
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        return error
