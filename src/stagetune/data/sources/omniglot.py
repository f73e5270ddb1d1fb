"""Omniglot as torchvision's Omniglot, or its authors' zip files, leave it: <part>/<alphabet>/<character>/*.png."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stagetune.config.settings import GroupSettings, place
from stagetune.data.folders import notes, of_classes, walk
from stagetune.data.image_files import ImageFiles
from stagetune.errors import DataError, did_you_mean
from stagetune.typed import choice

PARTS = ("images_background", "images_evaluation", "images_background_small1", "images_background_small2")


@dataclass
class Settings(GroupSettings):
    """`data=omniglot`."""

    name: str = "omniglot"
    root: str | None = place("folder that holds images_background or omniglot-py", "path/to/data")
    groups: list[str] | None = None
    on_error: str = choice("raise", "skip")

    may_be_photographs = False

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        return omniglot(str(self.root), alphabets=self.groups, on_error=self.on_error), None


def omniglot(root: str | Path, *, alphabets: Sequence[str] | None = None, on_error: str = "raise") -> ImageFiles:
    """All characters, or those of `alphabets`, found below `root` or root/omniglot-py; a group is an alphabet.

    Small sets are parts of the background set and are read only without it. Raises `DataError` if there is nothing,
    or no such alphabet.
    """
    base = Path(root).expanduser()
    folders = [folder for folder in (base / "omniglot-py", base) if any((folder / part).is_dir() for part in PARTS)]
    if not folders:
        raise DataError(f"data.root={root}: holds none of {', '.join(PARTS)}, nor does its folder omniglot-py")
    found = [part for part in PARTS if (folders[0] / part).is_dir()]
    if PARTS[0] in found:
        found = [part for part in found if part in PARTS[:2]]
    read = [of_classes(walk(folders[0] / part), folders[0] / part, depth=2) for part in found]
    entries = [entry for taken, _ in read for entry in taken]
    known = sorted({str(entry.group) for entry in entries})
    for alphabet in alphabets or ():
        if alphabet not in known:
            raise DataError(f"data.groups: no alphabet named {alphabet}; {did_you_mean(alphabet, known)}")
    return ImageFiles(
        "omniglot",
        "omniglot",
        [entry for entry in entries if not alphabets or entry.group in alphabets],
        on_error=on_error,
        notes=[f"of {', '.join(found)}", *notes([one for _, left in read for one in left])],
    )
