"""metrics.csv: a row per epoch."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def write_metrics(rows: Sequence[Row], path: Path) -> None:
    """Write all rows in one piece, with every key that any of them has as a column."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    draft = path.with_suffix(".tmp")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(draft, path)
