"""metrics.csv: a row per epoch."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagetune.artifacts import write_text

Row = dict[str, Any]


def write_metrics(rows: Sequence[Row], path: Path) -> None:
    """Write all rows in one piece, with every key that any of them has as a column."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
