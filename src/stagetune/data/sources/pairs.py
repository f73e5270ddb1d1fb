"""A table of pairs of images: columns a, b and is_same (1 or 0), optional split (train, val, test) and fold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import isfile, normpath
from pathlib import Path

import numpy as np

from stagetune.config.parts import PACKAGES, names, part
from stagetune.config.schema import Config
from stagetune.config.settings import DataSettings, SplitSettings, place
from stagetune.data.groups import joined
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.source import Pairs
from stagetune.data.sources.identity_csv import read_table, refuse
from stagetune.data.sources.image_folder import SPLITS
from stagetune.typed import choice


@dataclass
class Settings(SplitSettings):
    """`data=pairs`."""

    name: str = "pairs"
    pairs: str | None = place("table with columns a, b and is_same", "path/to/pairs.csv")
    split: str = choice("identities")
    on_error: str = choice("raise", "skip")

    has_identities = False

    def problems(self, config: Config) -> Iterator[str]:
        yield from SplitSettings.problems(self, config)
        yield from pair_problems(self, config)

    def build(self, image_size: int) -> tuple[ImageFiles, Pairs]:
        return pairs_csv(str(self.pairs), on_error=self.on_error)


def pair_problems(data: DataSettings, config: Config) -> Iterator[str]:
    """What pairs without identities demand of other settings."""
    if config.task.name == "siamese" and config.loss.takes_pairs is False:
        able = [name for name in names(PACKAGES["loss"]) if getattr(part("loss", name), "takes_pairs", None)]
        choices = " or ".join(f"loss={name}" for name in sorted(able))
        yield f"data={data.name}: loss={config.loss.name} needs identities; use {choices}"


@dataclass
class _Line:
    number: int
    a: str
    b: str
    is_same: str
    split: str | None
    fold: str


def pairs_csv(path: str | Path, *, on_error: str = "raise") -> tuple[ImageFiles, Pairs]:
    """The images of a table of pairs, paths relative to its folder, and the pairs.

    Images that `same` pairs join, directly or through others, are one identity. Raises `DataError` once for all
    lines that are wrong, repeat or contradict others, by their numbers.
    """
    file = Path(path).expanduser()
    rows = read_table(file, needed=("a", "b", "is_same"), known=("split", "fold"))
    has_split = "split" in rows[0][1]
    lines = [
        _Line(
            number, _plain(row["a"]), _plain(row["b"]), row["is_same"], row.get("split") or None, row.get("fold", "")
        )
        for number, row in rows
    ]
    refuse(file, _wrong(lines, file.parent, has_split))
    names = sorted({name for line in lines for name in (line.a, line.b)})
    position = {name: i for i, name in enumerate(names)}
    owner = joined(len(names), [(position[line.a], position[line.b]) for line in lines if line.is_same == "1"])
    refuse(
        file,
        [
            f"line {line.number}: {line.a} and {line.b} are different here, but other lines join them as one identity"
            for line in lines
            if line.is_same == "0" and owner[position[line.a]] == owner[position[line.b]]
        ],
    )
    split_of: dict[str, tuple[int, str | None]] = {}
    crossing = []
    for line in lines:
        for name in (line.a, line.b):
            first, split = split_of.setdefault(name, (line.number, line.split))
            if split != line.split:
                crossing.append(f"line {line.number}: {name} is in {line.split} here and in {split} in line {first}")
    refuse(file, crossing)
    entries = [Entry(file.parent / name, f"{names[owner[i]]}", split_of[name][1]) for i, name in enumerate(names)]
    source = ImageFiles("pairs", str(file.resolve()), entries, on_error=on_error)
    kept = {source.describe(i): i for i in range(len(source))}
    whole = [line for line in lines if all(str(file.parent / name) in kept for name in (line.a, line.b))]
    if len(whole) < len(lines):
        source.notes.append(f"{len(lines) - len(whole)} pairs with an image that was left out are not used")
    one, other = (
        np.array([kept[str(file.parent / name)] for name in side], dtype=np.int64)
        for side in ([line.a for line in whole], [line.b for line in whole])
    )
    is_same = np.array([int(line.is_same) for line in whole], dtype=np.int64)
    names_of_folds = sorted({line.fold for line in whole})
    fold = np.array([names_of_folds.index(line.fold) if line.fold else -1 for line in whole], dtype=np.int64)
    return source, Pairs(one, other, is_same, fold)


def _plain(name: str) -> str:
    """The one way of writing a path: ./x.png is x.png."""
    return normpath(name) if name else ""


def _wrong(lines: Sequence[_Line], folder: Path, has_split: bool) -> list[str]:
    problems = []
    seen: dict[frozenset[str], _Line] = {}
    exists: dict[str, bool] = {}
    for line in lines:
        where = f"line {line.number}: "
        for name in (line.a, line.b):
            if name not in exists:
                exists[name] = bool(name) and isfile(folder / name)
                if not exists[name]:
                    problems.append(f"{where}{name or 'an empty name'} does not exist in {folder}")
        if line.is_same not in ("0", "1"):
            problems.append(f"{where}is_same is {line.is_same or 'empty'}; give 1 (same identity) or 0")
        if line.a == line.b:
            problems.append(f"{where}{line.a} is paired with itself")
        if has_split and line.split not in SPLITS:
            problems.append(
                f"{where}split is {line.split or 'empty'}; give train, val or test to every pair, or to none"
            )
        twin = seen.setdefault(frozenset((line.a, line.b)), line)
        if twin is not line and line.a != line.b:
            said = "repeats" if twin.is_same == line.is_same else "contradicts"
            problems.append(f"{where}{said} line {twin.number} ({line.a}, {line.b})")
    return problems
