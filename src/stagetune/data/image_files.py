"""Images of one class each that a folder, a table or a library lists, decoded once at the start."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from stagetune.data.decoding import look, look_at, read_image, rgb
from stagetune.data.facts import Facts, Range
from stagetune.data.groups import class_groups
from stagetune.data.reading import Lookable, applied_reading
from stagetune.data.source import IntArray
from stagetune.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class Listed(Lookable, Protocol):
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

    def read(self, *, scale: Range | None, needed: int | None, max_megapixels: float) -> "Tensor":
        """The decoded image, uint8 [3, height, width]; see `read_image`."""


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

    @property
    def file(self) -> Path:
        return self.path

    def look(self, *, needed: int | None, max_megapixels: float) -> "tuple[Facts, Tensor | None]":
        return look(self.path, needed=needed, max_megapixels=max_megapixels)

    def read(self, *, scale: Range | None, needed: int | None, max_megapixels: float) -> "Tensor":
        return read_image(self.path, scale=scale, needed=needed, max_megapixels=max_megapixels)


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

    @property
    def file(self) -> None:
        return None

    def look(self, *, needed: int | None, max_megapixels: float) -> "tuple[Facts, Tensor | None]":
        return look_at(self.opened(self.index))

    def read(self, *, scale: Range | None, needed: int | None, max_megapixels: float) -> "Tensor":
        return rgb(self.opened(self.index), scale)


class ImageFiles:
    """A source of what is listed; what cannot be read raises `DataError`, or is left out with `on_error="skip"`.

    The `Reading` that applies says how its images are looked at and decoded. `facts` has what was found of each.

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
        reading = applied_reading()
        self._needed, self._max_megapixels = reading.needed, reading.max_megapixels
        looked = list(zip(entries, reading.look_at(entries), strict=True))
        self.unreadable = [f"{entry} ({found})" for entry, found in looked if isinstance(found, Exception)]
        if self.unreadable:
            self._report(self.unreadable, len(entries), on_error)
        usable = [(entry, found) for entry, found in looked if isinstance(found, Facts)]
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
        return self._entries[index].read(scale=self.scale, needed=self._needed, max_megapixels=self._max_megapixels)

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
