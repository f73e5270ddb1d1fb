"""A picture as a file, whole or not at all."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from stagetune.artifacts import write_whole


def save(figure: Figure, path: Path, **settings: Any) -> None:
    """Write a figure in the format that its name ends in; `settings` are those of `Figure.savefig`."""
    with write_whole(path) as file:
        figure.savefig(file, **{"format": path.suffix[1:].lower(), "dpi": 120, **settings})
