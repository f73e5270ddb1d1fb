"""A person's own images: root/<class>/*.png, or root/{train,val,test}/<class>/*.png, of which val may be missing."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stagetune.config.schema import Config
from stagetune.config.settings import place
from stagetune.data.formats import is_image
from stagetune.data.groups import PathGroupSettings, groups_of_paths
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.errors import DataError
from stagetune.typed import choice, number

SPLITS = ("train", "val", "test")


@dataclass
class Settings(PathGroupSettings):
    """`data=image_folder`."""

    name: str = "image_folder"
    root: str | None = place("folder that holds one folder per class", "path/to/images")
    identity_depth: int = number(1, 1, 2)
    group_level: int | None = number(None, 1, 2)
    on_error: str = choice("raise", "skip")

    def problems(self, config: Config) -> Iterator[str]:
        yield from PathGroupSettings.problems(self, config)
        if self.group_level is not None and self.group_pattern is not None:
            yield "data.group_level and data.group_pattern: both say the group of an image; leave one of them out"
        if self.group_level is not None and self.identity_depth == 2:
            yield (
                "data.group_level and data.identity_depth=2: both say what the two folders above an image are; "
                "leave one of them out"
            )

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        found = image_folder(
            str(self.root),
            identity_depth=self.identity_depth,
            group_level=self.group_level,
            group_pattern=self.group_pattern,
            on_error=self.on_error,
        )
        return found, None


def image_folder(
    root: str | Path,
    *,
    identity_depth: int = 1,
    group_level: int | None = None,
    group_pattern: str | None = None,
    on_error: str = "raise",
) -> ImageFiles:
    """Images in a folder per class; with `identity_depth=2` in root/<group>/<class>/, as alphabet and character.

    With `group_level` the first or the second of two folders is the image's group, such as its patient, and the other
    one its class; with `group_pattern` a part of the path below the root, or below train, val or test, is its group.

    Raises `DataError` where the folder holds no images, where a split folder is missing, where a path has no group,
    or, with `on_error="raise"`, where files cannot be read.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.root={root}: no such folder; give one that holds a folder of images per class")
    entries = _scan(folder, 2 if group_level else identity_depth)
    listed = {entry.path for entry in entries}  # rglob, unlike glob, does not look into links
    deeper = sum(is_image(path) and path not in listed for path in folder.rglob("*"))
    if not entries:
        elsewhere = f"; {deeper} images lie elsewhere in it" if deeper else ""
        inner = "<class>/<group>" if group_level == 2 else "<class>" if identity_depth == 1 else "<group>/<class>"
        raise DataError(
            f"data.root={root}: holds no images; expected root/{inner}/*.png or "
            f"root/{{train,val,test}}/{inner}/*.png, or another format that Pillow reads{elsewhere}"
        )
    if group_level is not None:
        folders = [entry.path.parts[-3:-1] for entry in entries]
        groups = [pair[group_level - 1] for pair in folders]
        entries = [
            replace(entry, identity=pair[2 - group_level], group=group)
            for entry, pair, group in zip(entries, folders, groups, strict=True)
        ]
    if group_pattern is not None:
        paths = [entry.path.relative_to(folder / (entry.split or "")).as_posix() for entry in entries]
        groups = groups_of_paths(paths, group_pattern)
        entries = [replace(entry, group=group) for entry, group in zip(entries, groups, strict=True)]
    notes = [f"{deeper} images that lie outside of a class folder are not used"] if deeper else []
    return ImageFiles("image_folder", str(folder.resolve()), entries, on_error=on_error, notes=notes)


def _scan(root: Path, depth: int) -> list[Entry]:
    """Every image file with the split folder it stands in, in a fixed order."""
    # a class may be called train: it is a split only if it holds folders
    inner = "*" if depth == 1 else "*/*"
    present = [part for part in SPLITS if any(path.is_dir() for path in (root / part).glob(inner))]
    if not present:
        return class_entries(root, depth=depth)
    if missing := [part for part in ("train", "test") if part not in present]:
        raise DataError(
            f"data.root={root}: has {' and '.join(present)} but no {' and no '.join(missing)} folder; "
            "give train and test (without val, validation is drawn from train), or one folder per class and let "
            "data.val and data.test split them"
        )
    return [entry for part in present for entry in class_entries(root / part, depth=depth, split=part)]


def class_entries(folder: Path, *, depth: int, split: str | None = None) -> list[Entry]:
    """The images of folder/<class>/, or with `depth=2` of folder/<group>/<class>/, in a fixed order."""
    entries = []
    for path in sorted(folder.glob("/".join(["*"] * (depth + 1)))):
        inner = path.parts[-1 - depth : -1]
        if is_image(path) and not any(part.startswith(".") for part in inner):
            entries.append(Entry(path, "/".join(inner), split, inner[0] if depth > 1 else None))
    return entries
