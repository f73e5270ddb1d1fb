"""A person's own images: root/<class>/*.png, or root/{train,val,test}/<class>/*.png, without val or without test."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from stagetune.config.schema import Config
from stagetune.config.settings import place
from stagetune.data.folders import EMPTY, Tree, below, notes, of_classes, walk
from stagetune.data.groups import PathGroupSettings, groups_of_paths
from stagetune.data.image_files import ImageFiles
from stagetune.data.names import PARTS, notes_on_likeness, part_called
from stagetune.errors import DataError
from stagetune.typed import choice, number


@dataclass
class Settings(PathGroupSettings):
    """`data=image_folder`."""

    name: str = "image_folder"
    root: str | None = place("folder that holds one folder per class", "path/to/images")
    depth: str = choice("auto", "1", "2")
    group_level: int | None = number(None, 1, 2)
    on_error: str = choice("raise", "skip")

    def problems(self, config: Config) -> Iterator[str]:
        yield from PathGroupSettings.problems(self, config)
        if self.group_level is not None and self.group_pattern is not None:
            yield "data.group_level and data.group_pattern: both say the group of an image; leave one of them out"
        if self.group_level is not None and self.depth != "auto":
            yield (
                f"data.group_level and data.depth={self.depth}: both say what the two folders above an image are; "
                "leave one of them out"
            )

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        found = image_folder(
            str(self.root),
            depth=self.depth,
            group_level=self.group_level,
            group_pattern=self.group_pattern,
            on_error=self.on_error,
        )
        return found, None


def image_folder(
    root: str | Path,
    *,
    depth: str = "auto",
    group_level: int | None = None,
    group_pattern: str | None = None,
    on_error: str = "raise",
) -> ImageFiles:
    """Images in a folder per class; with `depth="2"` in root/<group>/<class>/, as alphabet and character.

    With `depth="auto"` images lie either one or two folders deep. With `group_level` the first or the second of two
    folders is the image's group, such as its patient, and the other one its class; with `group_pattern` a part of the
    path below the root, or below train, val or test, is its group.

    Raises `DataError` where the folder holds no images, where it cannot be told which folder is the class, where a
    split folder is missing or there twice, where a path has no group, or, with `on_error="raise"`, where files cannot
    be read. What is not taken is counted and named in the notes.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.root={root}: no such folder; give one that holds a folder of images per class")
    tree = walk(folder)
    wanted = "2" if group_level else depth
    parts = _parts(tree, root, 2 if wanted == "2" else 1)
    said = []
    if wanted == "auto":
        wanted = _depth(tree, root, parts)
    entries, left = of_classes(tree, folder, depth=int(wanted), parts=parts)
    if not entries:
        inner = "<class>/<group>" if group_level == 2 else "<class>" if wanted == "1" else "<group>/<class>"
        there = "".join(f"; {note}" for note in notes(one for one in left if one.reason != EMPTY))
        raise DataError(
            f"data.root={root}: holds no images; expected root/{inner}/*.png or "
            f"root/{{train,val,test}}/{inner}/*.png, or another format that Pillow reads{there}"
        )
    if depth == "auto" and wanted == "2" and group_level is None:
        said.append(
            f"classes lie two folders deep, <group>/<class>, such as {entries[0].identity}; where the first folder "
            "is the class, say data.group_level=2"
        )
    if renamed := [f"{name} is {part}" for name, part in parts.items() if name != part]:
        said.append(f"of its folders {' and '.join(renamed)}")
    if group_level is not None:
        folders = [entry.path.parts[-3:-1] for entry in entries]
        groups = [pair[group_level - 1] for pair in folders]
        entries = [
            replace(entry, identity=pair[2 - group_level], group=group)
            for entry, pair, group in zip(entries, folders, groups, strict=True)
        ]
    if group_pattern is not None:
        paths = ["/".join(below(entry.path.relative_to(folder), parts)) for entry in entries]
        groups = groups_of_paths(paths, group_pattern)
        entries = [replace(entry, group=group) for entry, group in zip(entries, groups, strict=True)]
    likeness = notes_on_likeness(sorted({entry.identity for entry in entries}))
    return ImageFiles(
        "image_folder",
        str(folder.resolve()),
        entries,
        on_error=on_error,
        notes=[*said, *notes(left), *likeness],
    )


def _parts(tree: Tree, root: str | Path, depth: int) -> dict[str, str]:
    """Which folders are train, val and test; none of them where classes lie in the root.

    A class may be called train: a folder is a part if more images lie in folders in it than beside these.
    """
    balance: Counter[str] = Counter()
    for path in tree.images:
        balance[path.parts[0]] += 1 if len(path.parts) > depth + 1 else -1
    found = [(part, name) for name, more in sorted(balance.items()) if more > 0 and (part := part_called(name))]
    named = {part: [name for other, name in found if other == part] for part in PARTS}
    for part, names in named.items():
        if len(names) > 1:
            raise DataError(f"data.root={root}: {' and '.join(names)} are both {part}; leave one of them")
    parts = {names[0]: part for part, names in named.items() if names}
    if parts and ("train" not in parts.values() or len(parts) < 2):
        lacks, first = "train" if "train" not in parts.values() else "test", next(iter(parts))
        raise DataError(
            f"data.root={root}: has {' and '.join(parts)} but no {lacks} folder; give train and test (without val, "
            f"validation is drawn from train; without test, it is drawn from val), or {first} alone, which is "
            f"divided by data.val and data.test, data.root={Path(root) / first}, or data.depth=2 if {first} is a "
            "group of classes"
        )
    return parts


def _depth(tree: Tree, root: str | Path, parts: Mapping[str, str]) -> str:
    """How many folders deep images lie: 1, with fewer that lie deeper, or 2, with none that lies less deep.

    Raises `DataError` where both can be meant, or neither.
    """
    lie: dict[int, list[str]] = {}
    for path in tree.images:
        lie.setdefault(len(below(path, parts)) - 1, []).append(path.as_posix())
    one, two, deeper = (lie.get(1, []), lie.get(2, []), [path for depth in lie if depth > 2 for path in lie[depth]])
    if len(one) >= len(two) + len(deeper):
        return "1"
    if one:
        raise DataError(
            f"data.root={root}: {len(one)} images lie one folder deep, such as {one[0]}, and "
            f"{len(two) + len(deeper)} deeper, such as {(two + deeper)[0]}; say which folder is the class, "
            "data.depth=1 or data.depth=2 (the images of other depths are left out), or move them"
        )
    if len(two) >= len(deeper):
        return "2"
    raise DataError(
        f"data.root={root}: {len(deeper)} images lie more than two folders deep, such as {deeper[0]}; give a folder "
        "of <class>/*.png or <group>/<class>/*.png, or a table (data=identity_csv)"
    )
