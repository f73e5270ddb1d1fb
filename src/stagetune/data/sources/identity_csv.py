"""A table of images: columns path and identity, and where wanted split (train, val, test) and group of the image."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from stagetune.config.schema import Config
from stagetune.config.settings import place
from stagetune.data.groups import PathGroupSettings, groups_of_paths
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.listed import ListedFiles
from stagetune.data.names import has_control_characters, notes_on_likeness, part_called
from stagetune.data.tables import TableSettings, read_table, refuse
from stagetune.typed import choice


@dataclass(frozen=True)
class Columns:
    """What the columns are called in the table; None for one that is not to be read. A label is an identity."""

    path: str = "path"
    identity: str = "identity"
    label: str | None = None
    split: str | None = "split"
    group: str | None = "group"


@dataclass
class Settings(TableSettings, PathGroupSettings):
    """`data=identity_csv`."""

    name: str = "identity_csv"
    csv: str | None = place("table with columns path and identity", "path/to/images.csv")
    columns: Columns = field(default_factory=Columns)
    on_error: str = choice("raise", "skip")

    def problems(self, config: Config) -> Iterator[str]:
        yield from PathGroupSettings.problems(self, config)
        yield from self.table_problems()
        if self.columns.label is not None and self.columns.identity != Columns.identity:
            yield "data.columns.identity and data.columns.label: are two words for one column; leave one of them out"
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
            str(self.csv),
            columns=self.columns,
            group_pattern=self.group_pattern,
            on_error=self.on_error,
            **self.how_to_read(),
        )
        return found, None


def identity_csv(
    path: str | Path,
    *,
    columns: Columns = Columns(),
    group_pattern: str | None = None,
    on_error: str = "raise",
    root: str | None = None,
    encoding: str = "utf-8",
    allow_outside: bool = False,
) -> ImageFiles:
    """The images that a table lists, paths relative to its folder, or to `root`.

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
            needed=(called["path"], called["identity"], *renamed),
            known=list(optional.values()),
            remedy="; say what a column is called with data.columns.identity=NAME (path, label, split, group)",
            encoding=encoding,
        )
    ]
    files = ListedFiles.of_table(file, root, allow_outside)
    entries, problems = [], []
    seen: dict[str, tuple[int, str]] = {}
    for line, row in rows:
        name, identity, split = files.name(row["path"]), row["identity"], part_called(row.get("split", ""))
        first, other = seen.setdefault(name, (line, identity))
        if not row["path"] or not identity:
            problems.append(f"line {line}: {called['identity'] if row['path'] else called['path']} is empty")
        elif has_control_characters(identity):
            problems.append(
                f"line {line}: {called['identity']} has a line break or control character in it, {identity!r}"
            )
        elif wrong := files.problem(name):
            problems.append(f"line {line}: {wrong}")
        elif first != line:
            said = f"is {other} there and {identity} here" if other != identity else "is there already"
            problems.append(f"line {line}: {row['path']} of line {first} {said}")
        elif "split" in row and split is None:
            problems.append(
                f"line {line}: {columns.split} is {row['split'] or 'empty'}; "
                "give train, val or test to every image, or to none"
            )
        elif row.get("group") == "" and group_pattern is None:
            problems.append(f"line {line}: {columns.group} is empty; give every image its group, or none a column")
        entries.append(Entry(files.folder / name, identity, split, row.get("group"), f"line {line}: "))
    refuse(file, problems)
    if group_pattern is not None:
        groups = groups_of_paths([row["path"] for _, row in rows], group_pattern)
        entries = [replace(entry, group=group) for entry, group in zip(entries, groups, strict=True)]
    notes = notes_on_likeness(sorted({entry.identity for entry in entries}))
    return ImageFiles("identity_csv", str(file.resolve()), entries, on_error=on_error, notes=notes)


def _called(columns: Columns) -> dict[str, str]:
    """The name of each column that is to be read."""
    names = {**asdict(columns), "identity": columns.label or columns.identity, "label": None}
    return {key: column for key, column in names.items() if column is not None}
