"""What the commands print of a model's answers: words for a person, JSON or a table for a program."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from stagetune.artifacts import write_whole
from stagetune.errors import DataError
from stagetune.inference.answers import Identification, Prediction
from stagetune.visible import visible_name

if TYPE_CHECKING:
    from stagetune.inference.model import TrainedModel

TABLES = (".npz", ".parquet")
LISTED = 3  # of the classes, or identities, in words
Row = tuple[str, dict[str, Any]]  # in words, and for a program


@dataclass(frozen=True)
class Kind:
    """Answers of one kind: the columns of their table, and what makes of an answer its words and these columns."""

    columns: tuple[str, ...]
    row: Callable[[Any], Row]


class Teller:
    """Prints each answer as it comes, with a bar on a terminal, and at the end what could not be read.

    Args:
        form: words, json or csv.
        images: their names.
        kind: of the answers; without it nothing is printed of one.
    """

    def __init__(self, form: str, images: Sequence[str], kind: Kind | None = None) -> None:
        self.form, self.kind = form, kind
        self.unreadable: list[str] = []
        self._total = len(images)
        self._width = max((len(visible_name(name)) for name in images), default=0)
        self._table: Any = None
        columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        # what is printed for a person on the same terminal would tear the bar
        hidden = not console.is_terminal or (kind is not None and sys.stdout.isatty())
        self._progress = Progress(*columns, console=console, transient=True, disable=hidden)
        self._task = self._progress.add_task("", total=self._total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __call__(self, name: str, answer: Any) -> None:
        """Print one answer, or keep why there is none."""
        self._progress.advance(self._task)
        if isinstance(answer, DataError):
            self.unreadable.append(str(answer))
        if self.kind is None:
            return
        if isinstance(answer, DataError):
            words, fields = "", {"image": name, "error": str(answer)}
        else:
            words, fields = self.kind.row(answer)
        if self.form == "json":
            print(json.dumps(fields))
        elif self.form == "csv":
            self._write(fields, self.kind.columns)
        elif words:
            print(f"{visible_name(name):<{self._width}}  {visible_name(words)}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if self.unreadable and kind is None:
            print(f"{len(self.unreadable)} of {self._total} images could not be read:", file=sys.stderr)
            for line in self.unreadable:
                print(f"  {visible_name(line)}", file=sys.stderr)

    def _write(self, fields: Mapping[str, Any], columns: Sequence[str]) -> None:
        """A line of the table; lists within it as JSON."""
        if self._table is None:
            self._table = csv.DictWriter(sys.stdout, [*columns, "error"], lineterminator="\n")
            self._table.writeheader()
        self._table.writerow(
            {key: json.dumps(value) if isinstance(value, list) else value for key, value in fields.items()}
        )


def prediction_row(found: Prediction) -> Row:
    """One class, or that it is unknown."""
    likely = ", ".join(f"{name} {sure:.2f}" for name, sure in found.top[:LISTED])
    words = f"unknown (perhaps {likely})" if found.is_unknown else f"{found.label} {found.probability:.2f}"
    return words, {**asdict(found), "top": [list(pair) for pair in found.top]}


def identification_row(found: Identification) -> Row:
    """One identity, or that it is unknown."""
    near = found.top[0] if found.top else None
    nearest = ", ".join(f"{one.identity} {one.distance:.3f}" for one in found.top[:LISTED])
    words = f"unknown (nearest: {nearest or 'the gallery is empty'})"
    if found.identity is not None and near is not None:
        words = f"{found.identity}, distance {near.distance:.3f}, probability {near.probability:.2f}"
    fields = {
        "image": found.image,
        "identity": found.identity,
        "is_unknown": found.is_unknown,
        "distance": near.distance if near else None,
        "probability": near.probability if near else None,
        "top": [asdict(one) for one in found.top],
    }
    return words, fields


PREDICTIONS = Kind(("image", "label", "probability", "is_unknown", "top"), prediction_row)
IDENTIFICATIONS = Kind(("image", "identity", "is_unknown", "distance", "probability", "top"), identification_row)


def info_lines(model: "TrainedModel") -> Iterator[tuple[str, str]]:
    """What a model is, a line for each thing to know."""
    described, where = model.description, model.provenance
    size, how = described.preprocessing.image_size, described.preprocessing
    parameters = where.get("parameters")
    many = f"{parameters:,}" if isinstance(parameters, int) else "an unknown number of"
    yield "model", f"{where.get('model')} under task={described.task}, {many} parameters"
    yield "from", f"{where.get('experiment')}, seed {where.get('seed')}, schedule {where.get('schedule')}"
    yield "weights", f"began with {where.get('weights')}"
    deep = [f"deep images by {scale}"] if (scale := how.scale()) else []
    yield "takes", f"{size} x {size} pixels ({', '.join([*how.wrappers, how.resize, how.interpolation, *deep])})"
    classes = ", ".join(model.classes[:10]) + (
        f" and {len(model.classes) - 10} more" if len(model.classes) > 10 else ""
    )
    yield "classes", f"{len(model.classes)}: {classes}"
    if described.task == "classifier":
        fitted = described.confidence()
        unknown = "never" if fitted.unknown is None else f"below {fitted.unknown:.2f}"
        yield "answers", f'a class; temperature {fitted.temperature:.2f}, "unknown" {unknown}'
    elif model.threshold is not None:
        yield "answers", f"same up to a {described.distance} distance of {model.threshold:.4f}"
    about = ", ".join(f"{key} {value}" for key, value in model.runtime.about.items())
    yield "runtime", f"{model.runtime.name} ({about})"
    yield "key", described.key


def print_rows(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """A few rows with the same columns."""
    if form == "json":
        for row in rows:
            print(json.dumps(row))
    elif form == "csv":
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(rows[0] if rows else [])
        table.writerows(row.values() for row in rows)
    else:
        cells = [[visible_name(str(value)) for value in row.values()] for row in rows]
        width = max((len(first) for first, *_ in cells), default=0)
        for first, *others in cells:
            print(f"{first:<{width}}  {'  '.join(others)}")


def check_table(path: Path) -> None:
    """Raise `DataError` for a file of embeddings that cannot be written, before anything is computed."""
    if path.suffix not in TABLES:
        raise DataError(f"{path}: of this kind none is written; let its name end in {' or '.join(TABLES)}")
    if path.suffix == ".parquet":
        _parquet()
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise DataError(f"{path}: {'is a folder' if path.is_dir() else 'lies in a folder that is not there'}")
    try:
        with TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give another place") from error


def check_names(path: Path, images: Sequence[str]) -> None:
    """Raise `DataError` for images whose names a file of embeddings cannot hold."""
    for name in images if path.suffix == ".parquet" else ():
        if not name.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(f"{name!a}: is no name in UTF-8, as a .parquet file holds them; write a .npz")


def write_table(path: Path, images: Sequence[str], rows: Sequence[npt.NDArray[np.float32]]) -> None:
    """Images and their embeddings: arrays `image` and `embedding`, or columns of these names."""
    embeddings = np.stack(rows)
    with write_whole(path) as file:
        if path.suffix == ".npz":
            np.savez(file, allow_pickle=False, image=np.array(images), embedding=embeddings)
            return
        arrow, parquet = _parquet()
        flat = arrow.array(embeddings.ravel())
        column = arrow.FixedSizeListArray.from_arrays(flat, embeddings.shape[1])
        parquet.write_table(arrow.table({"image": list(images), "embedding": column}), file)


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("a .parquet file needs pyarrow; pip install pyarrow, or write a .npz") from error
    return pyarrow, pyarrow.parquet
