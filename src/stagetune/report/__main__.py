"""`python -m stagetune.report FOLDER`: every result below a folder, best first."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stagetune.errors import ResultError, shown
from stagetune.report.result import FILE, RunResult, read_result


def collect(folder: Path) -> tuple[list[tuple[Path, RunResult]], list[str]]:
    """Every run below `folder` with its result, and a line for each result that cannot be read."""
    found, unreadable = [], []
    for path in sorted(folder.rglob(FILE)):
        try:
            found.append((path.parent, read_result(path.parent)))
        except ResultError as error:
            unreadable.append(str(error))
    return found, unreadable


def results_table(runs: Sequence[tuple[Path, RunResult]]) -> Table:
    """A row per run; within one metric the best comes first, runs without a score last."""
    table = Table(box=None, pad_edge=False)
    for column in ("experiment", "schedule", "precision", "seed", "status", "best", "test", "seconds", "folder"):
        table.add_column(column, no_wrap=True)
    for folder, run in sorted(runs, key=_rank):
        metric = str(run.best["metric"]) if run.best else ""
        tested = run.test.get(metric.replace("val/", "test/"))
        table.add_row(
            run.experiment,
            run.schedule,
            f"{run.precision} x{run.accumulation}",
            str(run.seed),
            run.status,
            f"{metric} {run.score:.4f}" if run.score is not None else "",
            f"{tested:.4f}" if tested is not None else "",
            f"{run.timing.get('total_seconds', 0):.0f}",
            str(folder),
        )
    return table


def _rank(entry: tuple[Path, RunResult]) -> tuple[str, float]:
    run = entry[1]
    if run.best is None or run.score is None:
        return "~", 0.0
    return str(run.best["metric"]), run.score if run.best["mode"] == "min" else -run.score


def main(folder: Path) -> None:
    runs, unreadable = collect(folder)
    if not runs and not unreadable:
        raise ResultError(f"no {FILE} below {folder}; run an experiment first, such as make train")
    console = Console(width=1000)  # a line per run, nothing cut off, however long its folder
    console.print(results_table(runs))
    for line in unreadable:
        console.print(line, markup=False, soft_wrap=True)


if __name__ == "__main__":
    with shown():
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs"))
