"""Omniglot as torchvision's Omniglot, or its authors' zip files, leave it: <part>/<alphabet>/<character>/*.png."""

from pathlib import Path

from stagetune.data.image_files import ImageFiles
from stagetune.data.image_folder import class_entries
from stagetune.errors import DataError

PARTS = ("images_background", "images_evaluation", "images_background_small1", "images_background_small2")


def omniglot(root: str | Path, *, on_error: str = "raise") -> ImageFiles:
    """All characters found below `root` or root/omniglot-py; a group is an alphabet.

    Small sets are parts of the background set and are read only without it. Raises `DataError` if there is nothing.
    """
    base = Path(root).expanduser()
    folders = [folder for folder in (base / "omniglot-py", base) if any((folder / part).is_dir() for part in PARTS)]
    if not folders:
        raise DataError(f"data.root={root}: holds none of {', '.join(PARTS)}, nor does its folder omniglot-py")
    found = [part for part in PARTS if (folders[0] / part).is_dir()]
    if PARTS[0] in found:
        found = [part for part in found if part in PARTS[:2]]
    return ImageFiles(
        "omniglot",
        "omniglot",
        [entry for part in found for entry in class_entries(folders[0] / part, depth=2)],
        on_error=on_error,
        notes=[f"of {', '.join(found)}"],
    )
