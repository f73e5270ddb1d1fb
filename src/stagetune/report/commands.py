"""The commands that compare the runs of a sweep: report and best. No torch."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stagetune.artifacts import RunDir
from stagetune.errors import ResultError
from stagetune.trust import OUTSIDE, foreign
from stagetune.visible import visible_name

if TYPE_CHECKING:
    from stagetune.report.summary import Summary


def add_commands(commands: Any) -> None:
    """Add them to argparse's commands; each sets `run`, which takes what was given."""
    report = commands.add_parser("report", help="compare the runs of a sweep: report.html, summary.csv, summary.md")
    best = commands.add_parser("best", help="print the winner of a sweep as an experiment file, and its checkpoint")
    for command in (report, best):
        command.add_argument(
            "folder", nargs="?", type=Path, help="of the sweep (default: the newest in outputs/sweeps)"
        )
    report.add_argument(
        "--baseline", nargs="+", default=[], metavar="COLUMN=VALUE", help="what to compare with: schedule=full"
    )
    report.set_defaults(run=lambda given: show_report(given.folder or newest_sweep(), given.baseline))
    best.set_defaults(run=lambda given: show_best(given.folder or newest_sweep()))


def newest_sweep() -> Path:
    """The sweep that ran last; raises `ResultError` if there is none."""
    found = sorted(Path("outputs").glob("sweeps/*/sweep.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ResultError("there is no sweep in outputs/sweeps; run one first, such as make sweep, or name a folder")
    return found[-1].parent


def show_report(folder: Path, baseline: Sequence[str]) -> None:
    """Write report.html and the tables into `folder`, and print the comparison."""
    from rich.console import Console
    from rich.table import Table

    from stagetune.report.page import write_page
    from stagetune.report.summary import headline, problems, shown_table, write_tables

    summary = _summary(folder, baseline)
    written = write_tables(summary, folder)
    write_page(summary, folder / "report.html")
    header, rows = shown_table(summary)
    table = Table(box=None, pad_edge=False)
    for column in header:
        table.add_column(visible_name(column), no_wrap=True)
    for row in rows:
        table.add_row(*map(visible_name, row))
    # a line per configuration, nothing cut off; to look for numbers in a long name would take rich minutes
    console = Console(width=1000, markup=False, highlight=False)
    console.print(table)
    for line in [*headline(summary), *(f"{kind}: {entry}" for kind, of in problems(summary).items() for entry in of)]:
        console.print(visible_name(line), soft_wrap=True)
    print(visible_name(", ".join(str(path) for path in [folder / "report.html", *written])))


def show_best(folder: Path) -> None:
    """Print the winner as an experiment file and the path of its best checkpoint."""
    from stagetune.report.best import best_run, experiment_yaml

    summary = _summary(folder)
    run = best_run(summary)
    assert run.result.best is not None
    text, named = experiment_yaml(summary), str(run.result.best["checkpoint"])
    print(text, end="")
    print(visible_name(f"# {RunDir(run.folder).best if OUTSIDE.search(named) else run.folder / named}"))
    if code := [one.value for one in foreign(yaml.safe_load(text)) if one.is_code]:
        note = f"it names {' and '.join(code)}, which is run where this file is used; is the sweep yours?"
        print(f"stagetune: {visible_name(note)}", file=sys.stderr)


def _summary(folder: Path, baseline: Sequence[str] = ()) -> "Summary":
    from stagetune.report.collect import collect
    from stagetune.report.summary import summarize

    if wrong := [word for word in baseline if "=" not in word]:
        raise ResultError(f"--baseline {wrong[0]}: give COLUMN=VALUE, such as schedule=full")
    return summarize(collect(folder), {key: value for key, _, value in (word.partition("=") for word in baseline)})
