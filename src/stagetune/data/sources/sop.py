"""Stanford Online Products as its authors publish it: Stanford_Online_Products/Ebay_train.txt and Ebay_test.txt."""

from dataclasses import dataclass
from pathlib import Path

from stagetune.config.settings import SplitSettings, place
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.listed import ListedFiles
from stagetune.data.tables import read_words, refuse
from stagetune.errors import DataError
from stagetune.typed import choice

COLUMNS = ("image_id", "class_id", "super_class_id", "path")


@dataclass
class Settings(SplitSettings):
    """`data=sop`."""

    name: str = "sop"
    root: str | None = place("folder that holds Stanford_Online_Products", "path/to/data")
    split: str = choice("identities")
    on_error: str = choice("raise", "skip")

    published = True

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        return ImageFiles("sop", "sop", sop(str(self.root)), on_error=self.on_error), None


def sop(root: str | Path) -> list[Entry]:
    """The images that the two lists name (Song et al. 2016), none decoded; a product's group is its kind.

    Args:
        root: the folder that holds Stanford_Online_Products, or that folder itself.

    Raises:
        DataError: for a list that is missing, has another first line, lines with too few words, or one image twice.
    """
    base = Path(root).expanduser()
    folder = base if (base / "Ebay_train.txt").is_file() else base / "Stanford_Online_Products"
    files, entries = ListedFiles(folder), []
    for part in ("train", "test"):
        file = folder / f"Ebay_{part}.txt"
        (_, header), *lines = read_words(file, COLUMNS)
        if header != list(COLUMNS):
            raise DataError(f"{file}: its first line is {' '.join(header)}; expected {' '.join(COLUMNS)}")
        if not lines:
            raise DataError(f"{file}: has no line below its first; take it as its authors publish it")
        first: dict[str, int] = {}
        problems = []
        for number, (*_, path) in lines:
            if first.setdefault(path, number) != number:
                problems.append(f"line {number}: {path} is in line {first[path]}, too")
            elif wrong := files.outside(path):
                problems.append(f"line {number}: {wrong}")
        refuse(file, problems)
        for _, (_, product, _, path) in lines:
            kind = path.partition("/")[0].removesuffix("_final")
            entries.append(Entry(folder / path, f"{kind}/{product}", part, kind))
    return entries
