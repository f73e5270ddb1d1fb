"""report.html: everything of a comparison in one file that needs no network; every string of a run is escaped.

What would not be seen in it, such as control characters, is written out.
"""

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from string import Template
from typing import Any

from stagetune.artifacts import RunDir, StageRecord, write_text
from stagetune.report.answers import section
from stagetune.report.collect import Run
from stagetune.report.configurations import Configuration
from stagetune.report.metrics import Row
from stagetune.report.summary import Summary, headline, problems, shown, verdict
from stagetune.report.sweep_figures import pictures
from stagetune.shipped import COMMAND
from stagetune.visible import visible

TEMPLATE = Path(__file__).with_name("page.html")
WIDTH, HEIGHT = 144, 38  # of a run's small curve
CURVES = 400  # runs at most that have one, since each is read and drawn


def write_page(summary: Summary, path: Path) -> None:
    """Write the page in one piece."""
    write_text(path, page(summary))


def page(summary: Summary) -> str:
    folder = summary.collection.folder
    is_curved = len(summary.collection.runs) <= CURVES
    header = ["#", *summary.columns, "seeds", summary.metric, "test", "against the baseline", "seconds", "parameters"]
    kinds = problems(summary)
    text = Template(TEMPLATE.read_text()).substitute(
        title=escape(
            f"{folder.resolve().name}: {_counted(len(summary.ranked), 'configuration')}, "
            f"{_counted(len(summary.collection.runs), 'run')}"
        ),
        headline="".join(f"<p>{escape(sentence)}</p>" for sentence in headline(summary)),
        problems="".join(_listed(kind, entries) for kind, entries in kinds.items()),
        metric=escape(summary.metric),
        baseline=escape(" ".join(f"{key}={value}" for key, value in summary.baseline.items()) or "none"),
        header="".join(f'<th scope="col"><button type="button">{escape(name)}</button></th>' for name in header),
        rows="".join(_rows(summary, one, rank + 1, is_curved) for rank, one in enumerate(summary.ranked)),
        pictures="".join(
            f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"
            for title, svg in pictures(summary).items()
        ),
        answers=section(summary.tested) if summary.tested else "",
        shared_count=len(summary.shared),
        shared=_settings(summary.shared),
    )
    return visible(text)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _listed(kind: str, entries: list[str]) -> str:
    items = "".join(f"<li>{escape(entry)}</li>" for entry in entries)
    return f'<details open><summary class="bad">{escape(kind)} ({len(entries)})</summary><ul>{items}</ul></details>'


def _rows(summary: Summary, one: Configuration, rank: int, is_curved: bool) -> str:
    """A body of two rows: the configuration, and, hidden until it is opened, its runs."""
    score, tested = one.score, one.tested(summary.metric)
    seconds, trainable = one.mean("seconds"), one.mean("trainable")
    words = verdict(summary, one)
    tone = "good" if words.startswith("better") else "bad" if words.startswith("worse") else ""
    seeds = f"{len(one.scores)}" + (f' <span class="bad">{len(one.failed)} failed</span>' if one.failed else "")
    button = (
        f'<button type="button" class="open" aria-expanded="false" aria-label="runs of {escape(one.name)}">{rank}'
    )
    cells = [
        _cell(f"{button}</button>", rank),
        *(_cell(escape(value), value) for value in one.columns.values()),
        _cell(seeds, len(one.scores)),
        _cell(escape(shown(score)), score.mean if score else ""),
        _cell(escape(shown(tested)), tested.mean if tested else ""),
        f'<td class="words {tone}">{escape(words)}</td>',
        _cell(f"{seconds:.0f}" if seconds is not None else "", seconds if seconds is not None else ""),
        _cell(f"{trainable / 1e6:.1f} M" if trainable else "", trainable or ""),
    ]
    runs = "".join(_run(summary, run, is_curved) for run in one.runs)
    names = (
        "seed", "status", summary.metric, "test", "balanced accuracy", "baseline", "probe", "seconds", "course",
        "command and folder",
    )  # fmt: skip
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    inner = f"<table><thead><tr>{head}</tr></thead><tbody>{runs}</tbody></table>"
    hidden = f'<tr class="runs" hidden><td colspan="{len(cells)}">{inner}</td></tr>'
    return f"<tbody><tr>{''.join(cells)}</tr>{hidden}</tbody>"


def _run(summary: Summary, run: Run, is_curved: bool) -> str:
    result, folder = run.result, run.folder.relative_to(summary.collection.folder)
    metric = summary.metric.replace("val/", "test/")
    tested, probed = result.test.get(metric), result.probed(metric)
    error = f": {result.error['type']}: {result.error['message']}" if result.error else ""
    figures = "".join(
        f' <a href="{escape(str(RunDir(folder).figures / name), quote=True)}">{escape(Path(name).stem)}</a>'
        for name in sorted(path.name for path in RunDir(run.folder).figures.glob("*.png"))
    )
    seconds, found, balanced, baseline = result.timing.get("fit_seconds"), result.classification, "", ""
    if found:
        balanced, baseline = f"{found['balanced_accuracy']['value']:.4f}", f"{found['majority']['accuracy']:.4f}"
    cells = [
        f"<td>{escape(str(result.seed))}</td>",
        f'<td class="words {"" if result.status == "completed" else "bad"}">{escape(result.status + error)}</td>',
        f"<td>{f'{result.score:.4f}' if result.score is not None else ''}</td>",
        f"<td>{f'{tested:.4f}' if tested is not None else ''}</td>",
        f"<td>{balanced}</td>",
        f"<td>{baseline}</td>",
        f"<td>{f'{probed:.4f}' if probed is not None else ''}</td>",
        f"<td>{f'{seconds:.0f}' if seconds is not None else ''}</td>",
        f"<td>{_course(run.rows(), result.stages, summary.metric) if is_curved else ''}</td>",
        f'<td class="words"><code>{escape(command(run))}</code><br>'
        f'<span class="soft">{escape(str(folder))}</span>{figures}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def command(run: Run) -> str:
    """What to type for the same run once more, as far as a sweep has written it down."""
    return f"{COMMAND} " + " ".join(map(shlex.quote, run.overrides)) if run.overrides else "see config.yaml"


def _course(rows: list[Row], stages: Sequence[StageRecord], metric: str) -> str:
    """The metric by epoch as a small picture, every other stage shaded."""
    points = [
        (row["epoch"], value) for row in rows if isinstance(value := row.get(metric), float) and isfinite(value)
    ]
    if len(points) < 2:
        return ""
    last = max(epoch for epoch, _ in points) or 1
    low, high = min(value for _, value in points), max(value for _, value in points)
    line = " ".join(
        f"{WIDTH * epoch / last:.1f},{HEIGHT - 2 - (HEIGHT - 4) * (value - low) / ((high - low) or 1):.1f}"
        for epoch, value in points
    )
    shades = "".join(
        f'<rect x="{WIDTH * stage["start_epoch"] / last:.1f}" width="{WIDTH * stage["epochs"] / last:.1f}" y="0" '
        f'height="{HEIGHT}" fill="currentColor" opacity="0.1"/>'
        for stage in stages[1::2]
    )
    label = escape(f"{metric} from {points[0][1]:.4f} to {points[-1][1]:.4f} in {len(points)} epochs", quote=True)
    return (
        f'<svg class="course" role="img" aria-label="{label}" viewBox="0 0 {WIDTH} {HEIGHT}">{shades}'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )


def _cell(content: str, value: object) -> str:
    return f'<td data-value="{escape(str(value), quote=True)}">{content}</td>'


def _settings(settings: Mapping[str, Any]) -> str:
    return "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in settings.items())
