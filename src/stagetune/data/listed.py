"""The files that a table or list names, which lie in its folder: what somebody else wrote names none elsewhere."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stagetune.data.formats import is_regular


@dataclass(frozen=True)
class ListedFiles:
    """Files by their names in a table or list.

    A link in the folder is followed, wherever it leads: whoever owns the folder has made it, and a table cannot.

    Args:
        folder: what names are relative to, and what they may not leave.
        allow_outside: whether they may, after all.
        unless: for a message, how that is allowed.
    """

    folder: Path
    allow_outside: bool = False
    unless: str = ""

    @classmethod
    def of_table(cls, table: Path, root: str | None, allow_outside: bool) -> "ListedFiles":
        """Those of a person's table, relative to its folder or to `root`."""
        folder = table.parent if root is None else Path(root).expanduser()
        return cls(folder, allow_outside, " (data.allow_outside=true takes it all the same)")

    def name(self, written: str) -> str:
        """The one way of writing a name: ./x.png is x.png, and red\\x.png, as on Windows, is red/x.png."""
        if "\\" in written and not _is_there(self.folder / written):
            written = written.replace("\\", "/")
        return os.path.normpath(written) if written else ""

    def outside(self, name: str) -> str | None:
        """What is wrong with a name that leads out of the folder; None where it does not, or may."""
        if self.allow_outside or not (".." in name or os.path.isabs(name) or os.path.splitdrive(name)[0]):
            return None
        where = Path(os.path.normpath((self.folder / name).absolute()))
        if any(where.is_relative_to(home) for home in self._homes):
            return None
        return f"{name} lies outside of {self.folder}{self.unless}"

    def problem(self, name: str) -> str | None:
        """Why a file is not read: by its name it lies elsewhere, or it lies nowhere. None where it is."""
        if wrong := self.outside(name):
            return wrong
        is_there = name and _is_there(self.folder / name)
        return None if is_there else f"{name or 'an empty name'} does not exist in {self.folder}"

    @cached_property
    def _homes(self) -> set[Path]:
        return {Path(os.path.normpath(self.folder.absolute())), self.folder.resolve()}


def _is_there(path: Path) -> bool:
    try:
        return is_regular(path)
    except ValueError:  # what no file can be called
        return False
