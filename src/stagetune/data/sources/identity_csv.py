"""A table of images: columns path and identity, and where wanted split (train, val, test) and group of the image."""

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from stagetune.config.schema import Config
from stagetune.config.settings import place
from stagetune.data.groups import PathGroupSettings, groups_of_paths
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.sources.image_folder import SPLITS
from stagetune.errors import DataError, did_you_mean
from stagetune.typed import choice

SHOWN = 5  # problems in one message


@dataclass(frozen=True)
class Columns:
    """What the columns are called in the table; None for one that is not to be read."""

    path: str = "path"
    identity: str = "identity"
    split: str | None = "split"
    group: str | None = "group"


@dataclass
class Settings(PathGroupSettings):
    """`data=identity_csv`."""

    name: str = "identity_csv"
    csv: str | None = place("table with columns path and identity", "path/to/images.csv")
    columns: Columns = field(default_factory=Columns)
    on_error: str = choice("raise", "skip")

    def problems(self, config: Config) -> Iterator[str]:
        yield from PathGroupSettings.problems(self, config)
        if self.group_pattern is not None and self.columns.group not in (Columns.group, None):
            yield "data.columns.group and data.group_pattern: both say the group of an image; leave one of them out"
        given = _called(self.columns)
        for key, column in given.items():
            if other := next((k for k in given if k < key and given[k] == column), None):
                yield (
                    f"data.columns.{other} and data.columns.{key}: are both {column}; each is a column of its own "
                    "(null for a split or group that is not to be read)"
                )

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        found = identity_csv(
            str(self.csv), columns=self.columns, group_pattern=self.group_pattern, on_error=self.on_error
        )
        return found, None


def identity_csv(
    path: str | Path,
    *,
    columns: Columns = Columns(),
    group_pattern: str | None = None,
    on_error: str = "raise",
) -> ImageFiles:
    """The images that a table lists, paths relative to its folder.

    With `group_pattern` a part of the path as it is listed is the image's group, whatever column there is.

    Raises `DataError` for a table that is not one, for paths without a group, and once for all lines that are wrong,
    by their numbers.
    """
    file = Path(path).expanduser()
    called = _called(columns)
    optional = {key: called[key] for key in ("split", "group") if key in called}
    renamed = [column for key, column in optional.items() if column != key]
    rows = [
        (line, {key: row[column] for key, column in called.items() if column in row})
        for line, row in read_table(
            file,
            needed=(columns.path, columns.identity, *renamed),
            known=list(optional.values()),
            remedy="; say what a column is called with data.columns.identity=NAME (path, split, group)",
        )
    ]
    entries, problems = [], []
    seen: dict[Path, tuple[int, str]] = {}
    for line, row in rows:
        image, identity, split = file.parent / row["path"], row["identity"], row.get("split") or None
        first, other = seen.setdefault(image, (line, identity))
        if not row["path"] or not identity:
            problems.append(f"line {line}: {columns.path if not row['path'] else columns.identity} is empty")
        elif not os.path.isfile(image):  # whatever the name is
            problems.append(f"line {line}: {row['path']} does not exist in {file.parent}")
        elif first != line:
            said = f"is {other} there and {identity} here" if other != identity else "is there already"
            problems.append(f"line {line}: {row['path']} of line {first} {said}")
        elif "split" in row and split not in SPLITS:
            problems.append(
                f"line {line}: {columns.split} is {split or 'empty'}; "
                "give train, val or test to every image, or to none"
            )
        elif row.get("group") == "" and group_pattern is None:
            problems.append(f"line {line}: {columns.group} is empty; give every image its group, or none a column")
        entries.append(Entry(image, identity, split, row.get("group"), f"line {line}: "))
    refuse(file, problems)
    if group_pattern is not None:
        groups = groups_of_paths([row["path"] for _, row in rows], group_pattern)
        entries = [replace(entry, group=group) for entry, group in zip(entries, groups, strict=True)]
    return ImageFiles("identity_csv", str(file.resolve()), entries, on_error=on_error)


def _called(columns: Columns) -> dict[str, str]:
    """The name of each column that is to be read."""
    return {key: column for key, column in asdict(columns).items() if column is not None}


def read_table(
    file: Path, *, needed: Sequence[str], known: Sequence[str], remedy: str = ""
) -> list[tuple[int, dict[str, str]]]:
    """The lines of a CSV with their numbers, the header being line 1; `needed` and `known` are its columns.

    Raises `DataError` for a file that is missing or empty, for columns that are, with `remedy` at its end, or that
    stand there twice, and for lines of more cells than there are columns.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file; give a CSV with columns {', '.join(needed)}")
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.reader(opened, skipinitialspace=True)
        try:
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{file}: line {reader.line_num + 1} cannot be read ({error}); save it as UTF-8 CSV"
            ) from error
    columns = lines[0][1] if lines else []
    if missing := [column for column in needed if column not in columns]:
        near = did_you_mean(missing[0], columns) if columns else "the file is empty"
        raise DataError(f"{file}: has no column {' and no column '.join(missing)}; {near}{remedy}")
    read = [column for column in (*needed, *known) if column in columns]
    if twice := [column for column in read if columns.count(column) > 1]:
        raise DataError(f"{file}: has {columns.count(twice[0])} columns {twice[0]}; leave one of them")
    rows = []
    problems = []
    for line, cells in lines[1:]:
        if any(cells[len(columns) :]):
            problems.append(
                f"line {line}: has {len(cells)} cells for {len(columns)} columns; quote what has a comma in it"
            )
        cell_of = dict(zip(columns, cells, strict=False))
        rows.append((line, {column: cell_of.get(column, "") for column in read}))
    refuse(file, problems)
    if not rows:
        raise DataError(f"{file}: has a header but no lines")
    return rows


def refuse(file: Path, problems: Sequence[str]) -> None:
    """Raise one `DataError` for all problems of a table's lines."""
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError(f"{file}: {len(problems)} lines are wrong: {'; '.join([*problems[:SHOWN], *more])}")
