"""A table of images: columns path and identity, and where wanted split (train, val, test) and group."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stagetune.config.settings import GroupSettings, place
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.sources.image_folder import SPLITS
from stagetune.errors import DataError, did_you_mean
from stagetune.typed import choice

SHOWN = 5  # problems in one message


@dataclass
class Settings(GroupSettings):
    """`data=identity_csv`."""

    name: str = "identity_csv"
    csv: str | None = place("table with columns path and identity", "path/to/images.csv")
    on_error: str = choice("raise", "skip")

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        return identity_csv(str(self.csv), on_error=self.on_error), None


def identity_csv(path: str | Path, *, on_error: str = "raise") -> ImageFiles:
    """The images that a table lists, paths relative to its folder.

    Raises `DataError` for a table that is not one, and once for all lines that are wrong, by their numbers.
    """
    file = Path(path).expanduser()
    rows = read_table(file, needed=("path", "identity"), known=("split", "group"))
    entries, problems = [], []
    seen: dict[Path, tuple[int, str]] = {}
    for line, row in rows:
        image, identity, split = file.parent / row["path"], row["identity"], row.get("split") or None
        first, other = seen.setdefault(image, (line, identity))
        if not row["path"] or not identity:
            problems.append(f"line {line}: {'path' if not row['path'] else 'identity'} is empty")
        elif not image.is_file():
            problems.append(f"line {line}: {row['path']} does not exist in {file.parent}")
        elif first != line:
            said = f"is {other} there and {identity} here" if other != identity else "is there already"
            problems.append(f"line {line}: {row['path']} of line {first} {said}")
        elif "split" in row and split not in SPLITS:
            problems.append(
                f"line {line}: split is {split or 'empty'}; give train, val or test to every image, or to none"
            )
        entries.append(Entry(image, identity, split, row.get("group") or None, f"line {line}: "))
    refuse(file, problems)
    return ImageFiles("identity_csv", str(file.resolve()), entries, on_error=on_error)


def read_table(file: Path, *, needed: Sequence[str], known: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV with their numbers, the header being line 1; `needed` and `known` are its columns.

    Raises `DataError` for a file that is missing or empty and for columns that are.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file; give a CSV with columns {', '.join(needed)}")
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, skipinitialspace=True)
        columns = [column.strip() for column in reader.fieldnames or []]
        reader.fieldnames = columns
        if missing := [column for column in needed if column not in columns]:
            near = did_you_mean(missing[0], columns) if columns else "the file is empty"
            raise DataError(f"{file}: has no column {' and no column '.join(missing)}; {near}")
        try:
            rows = [
                (reader.line_num, {c: (row[c] or "").strip() for c in (*needed, *known) if c in columns})
                for row in reader
            ]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{file}: line {reader.line_num + 1} cannot be read ({error}); save it as UTF-8 CSV"
            ) from error
    if not rows:
        raise DataError(f"{file}: has a header but no lines")
    return rows


def refuse(file: Path, problems: Sequence[str]) -> None:
    """Raise one `DataError` for all problems of a table's lines."""
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError(f"{file}: {len(problems)} lines are wrong: {'; '.join([*problems[:SHOWN], *more])}")
