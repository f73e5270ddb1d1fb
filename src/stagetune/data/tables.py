"""Tables and lists of text as they come: any encoding and delimiter, mistakes said by line. No torch."""

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagetune.data.formats import is_regular
from stagetune.errors import DataError, did_you_mean

SHOWN = 5  # problems in one message
DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
MARKS = {  # what a file may begin with; that of UTF-32 begins as the other of UTF-16 does
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass
class TableSettings:
    """How a table of one's own is read, beside what it is of."""

    root: str | None = None
    encoding: str = "utf-8"
    allow_outside: bool = False

    def table_problems(self) -> Iterator[str]:
        """What is wrong with that."""
        if self.root is not None and not (self.root and Path(self.root).expanduser().is_dir()):
            yield f"data.root={self.root}: is not there, seen from {Path.cwd()}; give the folder of the table's paths"
        if problem := encoding_problem(self.encoding):
            yield problem

    def how_to_read(self) -> dict[str, Any]:
        """The same by name."""
        return {"root": self.root, "encoding": self.encoding, "allow_outside": self.allow_outside}


Row = tuple[int, dict[str, str]]  # the number of its line, and the cell of each column


def encoding_problem(encoding: str) -> str | None:
    """What is wrong with the name of an encoding; None where it is one of text."""
    try:
        "".encode(encoding)
    except (LookupError, ValueError):
        return f"data.encoding={encoding}: no such encoding; give one such as utf-8, latin-1, cp1252 or utf-16"
    return None


def read_text(file: Path, *, encoding: str = "utf-8", if_missing: str = "", if_other: str = "") -> str:
    """The text of a file, in the encoding that its first bytes name, or else in the given one.

    Args:
        file: what is read.
        encoding: how it is written.
        if_missing: what to do where there is no such file, for a message.
        if_other: what to do where it is written otherwise.

    Raises `DataError` for what is no file or cannot be read, and for bytes of another encoding, with their line.
    """
    if not is_regular(file):
        raise DataError(f"{file}: {'is a folder' if file.is_dir() else 'no such file'}; {if_missing}")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    if problem := encoding_problem(encoding):
        raise DataError(problem)
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), encoding)
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        line = data.count(b"\n", 0, start) + 1
        raise DataError(
            f"{file}: line {line} is not {encoding}: its byte {data[start]:#04x} cannot be read; {if_other}"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{file}: line {line} holds a NUL byte, so that it is no text in {encoding}; {if_other}")
    return text


def read_table(
    file: Path, *, needed: Sequence[str], known: Sequence[str], remedy: str = "", encoding: str = "utf-8"
) -> list[Row]:
    """The lines of a table with their numbers, the header being line 1; `needed` and `known` are its columns.

    Cells are parted by a comma, semicolon, tab or bar: by the one with which the header has the columns.

    Raises `DataError` for a file that is missing, empty or no text, for columns that are missing, with `remedy` at
    its end, or that stand there twice, and for lines of more or fewer cells than there are columns.
    """
    text = read_text(
        file,
        encoding=encoding,
        if_missing=f"give a CSV with columns {', '.join(needed)}",
        if_other="say how it is written, data.encoding=latin-1, cp1252 or utf-16, or save it as UTF-8",
    )
    delimiter, found = _lines(file, text, needed)
    (_, columns), *lines = found or [(1, [])]
    if missing := [column for column in needed if column not in columns]:
        near = did_you_mean(missing[0], columns) if columns else "the file is empty"
        raise DataError(f"{file}: has no column {' and no column '.join(missing)}; {near}{remedy}")
    read = [column for column in (*needed, *known) if column in columns]
    if twice := [column for column in read if columns.count(column) > 1]:
        raise DataError(f"{file}: has {columns.count(twice[0])} columns {twice[0]}; leave one of them")
    last = max(columns.index(column) for column in read)
    rows, problems = [], []
    for line, cells in lines:
        if any(cells[len(columns) :]) or len(cells) <= last:  # Excel leaves out empty ones at the end, or adds some
            advice = f"; quote what has {DELIMITERS[delimiter]} in it" if len(cells) > len(columns) else ""
            problems.append(f"line {line}: has {len(cells)} cells for {len(columns)} columns{advice}")
        cell_of = dict(zip(columns, cells, strict=False))
        rows.append((line, {column: cell_of.get(column, "") for column in read}))
    refuse(file, problems)
    if not rows:
        raise DataError(f"{file}: has a header but no lines")
    return rows


def read_words(file: Path, columns: Sequence[str]) -> list[tuple[int, list[str]]]:
    """The lines of a published list of words that blanks part, with their numbers from 1; the last may have blanks.

    Raises `DataError` where there is no such file or nothing in it, and for lines with fewer words than `columns`.
    """
    published = "take it as its authors publish it"
    text = read_text(
        file,
        if_missing="give its folder as the authors publish it, by data.root",
        if_other=f"{published}, or as UTF-8",
    )
    lines = [
        (number, line.strip().split(maxsplit=len(columns) - 1))
        for number, line in enumerate(io.StringIO(text, newline=None), start=1)
        if line.strip()
    ]
    if not lines:
        raise DataError(f"{file}: is empty; {published}")
    refuse(file, [f"line {n}: expected {' '.join(columns)}" for n, words in lines if len(words) < len(columns)])
    return lines


def is_number(word: str) -> bool:
    """Whether a word is a whole number as lists have them: of a few plain digits."""
    return word.isascii() and word.isdecimal() and len(word) < 10


def refuse(file: Path, problems: Sequence[str]) -> None:
    """Raise one `DataError` for all problems of a table's lines."""
    if problems:
        more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise DataError(f"{file}: {len(problems)} lines are wrong: {'; '.join([*problems[:SHOWN], *more])}")


class _Strict(csv.excel):
    """A quote that is not closed is an error, and not all lines below it one cell."""

    skipinitialspace = True
    strict = True


def _lines(file: Path, text: str, needed: Sequence[str]) -> tuple[str, list[tuple[int, list[str]]]]:
    """Its delimiter, and the lines that hold something, as cells without blanks around them, each with its number."""
    possible, skipped = list(DELIMITERS), 0
    first, _, rest = text.partition("\n")
    if first.rstrip("\r").lower() in [f"sep={delimiter}" for delimiter in DELIMITERS]:  # as Excel writes and wants it
        text, skipped, possible = rest, 1, [first.rstrip("\r")[-1]]
    heads = {delimiter: _head(text, delimiter) for delimiter in possible}
    fitting = [delimiter for delimiter, head in heads.items() if set(needed) <= set(head)]
    delimiter = fitting[0] if fitting else max(heads, key=lambda one: len(heads[one]))
    return delimiter, [(number, cells) for number, cells in _cells(file, text, delimiter, skipped)]


def _head(text: str, delimiter: str) -> list[str]:
    """The cells of the first line that holds something."""
    reader = csv.reader(io.StringIO(text, newline=""), _Strict, delimiter=delimiter)
    try:
        return next((stripped for cells in reader if any(stripped := [cell.strip() for cell in cells])), [])
    except csv.Error:
        return []


def _cells(file: Path, text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), _Strict, delimiter=delimiter)
    while True:
        start = skipped + reader.line_num + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{file}: line {start} cannot be read ({error}); is a quote not closed, or not doubled within quotes?"
            ) from error
        if any(cells):
            yield start, cells
