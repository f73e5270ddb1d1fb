"""Caltech-UCSD Birds-200-2011 as its authors publish it: CUB_200_2011/images.txt and the lists beside it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagetune.config.settings import SplitSettings, place
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.sources.identity_csv import refuse
from stagetune.errors import DataError
from stagetune.typed import choice

SEEN = (
    100  # where identities are apart, the first so many classes are trained on, the others tested (Song et al. 2016)
)


@dataclass
class Settings(SplitSettings):
    """`data=cub`."""

    name: str = "cub"
    root: str | None = place("folder that holds CUB_200_2011", "path/to/data")
    on_error: str = choice("raise", "skip")

    published = True

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        return ImageFiles("cub", "cub", cub(str(self.root), by=self.split), on_error=self.on_error), None


def cub(root: str | Path, *, by: str) -> list[Entry]:
    """The images that the lists name (Wah et al. 2011), none decoded.

    Args:
        root: the folder that holds CUB_200_2011, or that folder itself.
        by: images, for the split of train_test_split.txt; identities, for the first and the last hundred classes.

    Raises:
        DataError: for a list that is missing, and once for all lines of one that are wrong.
    """
    base = Path(root).expanduser()
    folder = base if (base / "images.txt").is_file() else base / "CUB_200_2011"
    classes = _by_id(folder / "classes.txt", "class")
    paths = _by_id(folder / "images.txt", "path")
    class_of = _by_id(folder / "image_class_labels.txt", "class", paths, classes)
    trained = _by_id(folder / "train_test_split.txt", "part", paths, ("0", "1"))
    seen = set(sorted(classes, key=int)[:SEEN])
    is_train = {image: class_of[image] in seen if by == "identities" else trained[image] == "1" for image in paths}
    return [
        Entry(folder / "images" / path, classes[class_of[image]], "train" if is_train[image] else "test")
        for image, path in paths.items()
    ]


def read_list(file: Path, columns: Sequence[str] = ()) -> list[tuple[int, list[str]]]:
    """The lines of a list of words that blanks part, with their numbers from 1; the last of `columns` may have some.

    Raises `DataError` where there is no such file or nothing in it, and for lines with fewer words than `columns`.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file; give its folder as the authors publish it, by data.root")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: cannot be read ({error}); take it as its authors publish it, or as UTF-8"
        ) from error
    lines = [
        (number, line.strip().split(maxsplit=len(columns) - 1))
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    if not lines:
        raise DataError(f"{file}: is empty; take it as its authors publish it")
    refuse(file, [f"line {n}: expected {' '.join(columns)}" for n, words in lines if len(words) < len(columns)])
    return lines


def _by_id(file: Path, says: str, keys: Collection[str] = (), values: Collection[str] = ()) -> dict[str, str]:
    """What a list says of each number; of each of `keys` one of `values`, where these are given."""
    found: dict[str, str] = {}
    problems = []
    for number, (key, value) in read_list(file, ("number", says)):
        if not key.isdecimal() or (keys and key not in keys) or key in found:
            what = "stands there already" if key in found else "is not known" if keys else "is no number"
            problems.append(f"line {number}: {key} {what}")
        elif values and value not in values:
            problems.append(f"line {number}: no {says} is {value}")
        found[key] = value
    refuse(file, problems)
    if missing := [key for key in keys if key not in found]:
        raise DataError(f"{file}: {len(missing)} of {len(keys)} images are missing, such as number {missing[0]}")
    return found
