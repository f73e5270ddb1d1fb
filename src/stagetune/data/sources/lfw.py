"""Labeled Faces in the Wild as torchvision's LFWPairs finds it: root/lfw-py/pairs.txt beside a folder of images."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stagetune.config.schema import Config
from stagetune.config.settings import DataSettings, place
from stagetune.data.formats import is_regular
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.source import Pairs
from stagetune.data.sources.pairs import pair_problems
from stagetune.data.tables import is_number, read_words, refuse
from stagetune.errors import DataError
from stagetune.typed import choice

IMAGES = ("lfw_funneled", "lfw-deepfunneled", "lfw")


@dataclass
class Settings(DataSettings):
    """`data=lfw`."""

    name: str = "lfw"
    root: str | None = place("folder that holds lfw-py", "path/to/data")
    split: str = choice("identities")
    on_error: str = choice("raise", "skip")

    has_identities = False

    def problems(self, config: Config) -> Iterator[str]:
        yield from DataSettings.problems(self, config)
        yield from pair_problems(self, config)

    def build(self, image_size: int) -> tuple[ImageFiles, Pairs]:
        return lfw(str(self.root), on_error=self.on_error)


def lfw(root: str | Path, *, on_error: str = "raise") -> tuple[ImageFiles, Pairs]:
    """The images and pairs of View 2 (Huang et al. 2007): the last fold is the test, the one before it validation.

    Raises `DataError` for what is missing, with the lines of the list. Folds have no person in common.
    """
    folder = Path(root).expanduser() / "lfw-py"
    images = next((folder / name for name in IMAGES if (folder / name).is_dir()), None)
    listed = folder / "pairs.txt"
    if images is None or not is_regular(listed):
        raise DataError(f"data.root={root}: expected {listed} and one of {', '.join(IMAGES)} beside it")
    (_, [text]), *rest = read_words(listed, ("pairs",))
    head, lines = text.split(), [(number, text.split()) for number, [text] in rest]
    if len(head) != 2 or not all(map(is_number, head)) or int(head[0]) < 3 or int(head[1]) < 1:
        raise DataError(
            f"{listed}: line 1 is {' '.join(head)}; expected the number of folds (3 or more) and of pairs"
        )
    folds, each = int(head[0]), 2 * int(head[1])
    if len(lines) != folds * each:
        raise DataError(f"{listed}: has {len(lines)} pairs; line 1 says {folds} folds of {each}")
    entries: dict[Path, Entry] = {}
    pairs: list[tuple[Path, Path, int, int]] = []
    problems = []
    for i, (number, words) in enumerate(lines):
        fold = i // each
        split = "test" if fold == folds - 1 else "val" if fold == folds - 2 else "train"
        if len(words) not in (3, 4) or not is_number(words[1]) or not is_number(words[-1]):
            problems.append(f"line {number}: expected a name and two numbers, or a name and a number twice")
            continue
        people = (words[0], words[-2] if len(words) == 4 else words[0])
        files = [
            images / name / f"{name}_{word:0>4}.jpg" for name, word in zip(people, (words[1], words[-1]), strict=True)
        ]
        if there := [name for name in people if "/" in name or name == ".."]:
            problems.append(f"line {number}: {there[0]} is no name of a folder in {images}")
            continue
        if files[0] == files[1]:
            problems.append(f"line {number}: {files[0].name} is paired with itself")
        elif len(words) == 4 and people[0] == people[1]:
            problems.append(f"line {number}: {people[0]} is paired with {people[1]} as if two people")
        problems += [f"line {number}: {file} does not exist" for file in files if not is_regular(file)]
        for file, name in zip(files, people, strict=True):
            entries.setdefault(file, Entry(file, name, split))
        pairs.append((files[0], files[1], int(len(words) == 3), fold))
    refuse(listed, problems)
    source = ImageFiles("lfw", "lfw", list(entries.values()), on_error=on_error)
    position = {source.describe(i): i for i in range(len(source))}
    known = [pair for pair in pairs if str(pair[0]) in position and str(pair[1]) in position]
    if len(known) < len(pairs):
        source.notes.append(f"{len(pairs) - len(known)} pairs with an image that was left out are not used")
    first, second = (np.array([position[str(pair[side])] for pair in known], dtype=np.int64) for side in (0, 1))
    is_same, fold_of = (np.array([pair[part] for pair in known], dtype=np.int64) for part in (2, 3))
    return source, Pairs(first, second, is_same, fold_of)
