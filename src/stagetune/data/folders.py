"""A tree of folders, walked once: the images in it, and whatever else is there, each with the reason. No torch."""

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stagetune.data.formats import is_image, suffixes
from stagetune.data.groups import some
from stagetune.data.image_files import Entry

LINKED = 3  # folders below the root, such as split, group and class, of which each may be a link
SYSTEM = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "lost+found"})
FOREIGN, BROKEN, CIRCLE, SPECIAL, CLOSED, DEEP_LINK, BESIDE, BELOW, EMPTY = (
    "files that are no images",
    "links that lead nowhere",
    "links to a folder that they lie in",
    "pipes, sockets or devices",
    "folders that cannot be opened",
    f"links to folders, more than {LINKED} folders down,",
    "images beside the class folders",
    "images below a class folder",
    "folders without images of their own",
)


@dataclass(frozen=True)
class Left:
    """What is not taken, by its path below the root, and what it is."""

    path: Path
    reason: str


@dataclass
class Tree:
    """What lies below a folder, hidden and system files left out; all paths are relative to it, in a fixed order."""

    images: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def walk(root: Path) -> Tree:
    """All below a folder. Links are followed, those of folders as far down as classes lie; none is in a circle.

    Nothing is opened but folders, and regular files whose name does not say that they are images.
    """
    tree = Tree()
    to_enter: list[tuple[Path, frozenset[tuple[int, int]]]] = [(Path(), frozenset())]
    while to_enter:
        folder, above = to_enter.pop()
        try:
            here = os.stat(root / folder)
            found = list(os.scandir(root / folder))
        except OSError:
            tree.left.append(Left(folder, CLOSED))
            continue
        above |= {(here.st_dev, here.st_ino)}
        for one in found:
            path = folder / one.name
            if one.name.startswith(".") or one.name.lower() in SYSTEM:
                continue
            match _kind(one, len(path.parts), above):
                case "image":
                    tree.images.append(path)
                case "folder":
                    tree.folders.append(path)
                    to_enter.append((path, above))
                case reason:
                    tree.left.append(Left(path, reason))
    tree.images.sort()
    tree.folders.sort()
    tree.left.sort(key=lambda left: left.path)
    return tree


def _kind(one: os.DirEntry[str], depth: int, above: frozenset[tuple[int, int]]) -> str:
    """Whether something is an image or a folder to enter; else the reason why it is neither."""
    try:
        target = os.stat(one)
    except OSError:  # a link to nowhere, or to itself: what is called an image is one that cannot be read
        return "image" if Path(one.name).suffix.lower() in suffixes() else BROKEN
    if stat.S_ISDIR(target.st_mode):
        if (target.st_dev, target.st_ino) in above:
            return CIRCLE
        return DEEP_LINK if one.is_symlink() and depth > LINKED else "folder"
    if not stat.S_ISREG(target.st_mode):
        return SPECIAL
    return "image" if is_image(Path(one.path)) else FOREIGN


def of_classes(
    tree: Tree, root: Path, *, depth: int, parts: Mapping[str, str] = {}
) -> tuple[list[Entry], list[Left]]:
    """The images of <class>/, or with `depth=2` of <group>/<class>/, and whatever else there is.

    Args:
        tree: of `walk(root)`.
        root: what its paths are below.
        depth: folders from the root, or from the folder of a part, to the images.
        parts: of the folders train, val and test what each is; empty where classes lie in the root.
    """
    entries, left = [], list(tree.left)
    full: set[Path] = set()
    for path in tree.images:
        inner = below(path, parts)
        if len(inner) == depth + 1:
            group = inner[0] if depth > 1 else None
            entries.append(Entry(root / path, "/".join(inner[:-1]), parts.get(path.parts[0]), group))
            full.update(path.parents)
        else:
            left.append(Left(path, BELOW if len(inner) > depth + 1 else BESIDE))
    full.update(above for path in tree.images if not below(path, parts) for above in path.parents)
    empty = {
        path for path in tree.folders if path not in full and len(path.parts) <= depth + (path.parts[0] in parts)
    }
    outermost = sorted(path for path in empty if path.parent not in empty)
    order = list(parts.values())
    entries.sort(key=lambda entry: order.index(entry.split) if entry.split else 0)
    return entries, [*left, *(Left(path, EMPTY) for path in outermost)]


def notes(left: Iterable[Left]) -> list[str]:
    """A line for each reason: how many there are, and the first few of them."""
    named: dict[str, list[str]] = {}
    for one in left:
        named.setdefault(one.reason, []).append(one.path.as_posix())
    return [
        f"{reason} are {'left out' if reason == EMPTY else 'not used'} ({len(paths)}): {some(paths)}"
        for reason, paths in sorted(named.items())
    ]


def below(path: Path, parts: Mapping[str, str]) -> tuple[str, ...]:
    """The path from where classes lie on; empty for what lies beside the folders of parts."""
    return path.parts[1:] if path.parts[0] in parts else () if parts else path.parts
