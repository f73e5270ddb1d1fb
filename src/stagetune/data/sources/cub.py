"""Caltech-UCSD Birds-200-2011 as its authors publish it: CUB_200_2011/images.txt and the lists beside it."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stagetune.config.settings import SplitSettings, place
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.listed import ListedFiles
from stagetune.data.tables import is_number, read_words, refuse
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
    paths = _by_id(folder / "images.txt", "path", files=ListedFiles(folder / "images"))
    class_of = _by_id(folder / "image_class_labels.txt", "class", paths, classes)
    trained = _by_id(folder / "train_test_split.txt", "part", paths, ("0", "1"))
    seen = set(sorted(classes, key=int)[:SEEN])
    is_train = {image: class_of[image] in seen if by == "identities" else trained[image] == "1" for image in paths}
    return [
        Entry(folder / "images" / path, classes[class_of[image]], "train" if is_train[image] else "test")
        for image, path in paths.items()
    ]


def _by_id(
    file: Path, says: str, keys: Collection[str] = (), values: Collection[str] = (), files: ListedFiles | None = None
) -> dict[str, str]:
    """What a list says of each number: of each of `keys` one of `values`, or of `files`, where these are given."""
    found: dict[str, str] = {}
    problems = []
    for number, (key, value) in read_words(file, ("number", says)):
        if not is_number(key) or (keys and key not in keys) or key in found:
            what = "stands there already" if key in found else "is not known" if keys else "is no number"
            problems.append(f"line {number}: {key} {what}")
        elif values and value not in values:
            problems.append(f"line {number}: no {says} is {value}")
        elif files and (wrong := files.outside(value)):
            problems.append(f"line {number}: {wrong}")
        found[key] = value
    refuse(file, problems)
    if missing := [key for key in keys if key not in found]:
        raise DataError(f"{file}: {len(missing)} of {len(keys)} images are missing, such as number {missing[0]}")
    return found
