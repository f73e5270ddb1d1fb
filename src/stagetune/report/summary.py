"""What a sweep comes to: configurations ranked, each against its baseline, and what to hold against it all."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from stagetune.artifacts import write_text, write_whole
from stagetune.errors import ResultError, did_you_mean
from stagetune.report.answers import Tested, headline_of, tested
from stagetune.report.collect import Collection, Run
from stagetune.report.configurations import Configuration, configurations, fold_warnings, warnings_of
from stagetune.report.statistics import Comparison, Estimate, compare, told_apart
from stagetune.visible import visible

COSTS = ("seconds", "trainable", "memory", "speed")
BASELINE = ("schedule", "full")  # plain fine-tuning, where a sweep has it


@dataclass(frozen=True)
class Summary:
    """Configurations as they were `asked` for, and `ranked`, those without a score last.

    Comparisons are by a configuration's name.
    """

    collection: Collection
    metric: str
    higher_is_better: bool
    asked: list[Configuration]
    ranked: list[Configuration]
    shared: dict[str, Any]
    baseline: dict[str, str]
    comparisons: dict[str, Comparison]
    equals: list[Configuration]  # that cannot be told apart from the best
    warnings: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(self.ranked[0].columns) if self.ranked else []

    @cached_property
    def rank(self) -> dict[str, int]:
        """Of a configuration's name, from 1."""
        return {one.name: place + 1 for place, one in enumerate(self.ranked)}

    @property
    def best(self) -> Configuration | None:
        return self.ranked[0] if self.ranked and self.ranked[0].scored else None

    @property
    def best_run(self) -> Run | None:
        """That of the best configuration with the best score."""
        sign = -1 if self.higher_is_better else 1
        return min(self.best.scored, key=lambda run: sign * run.score) if self.best else None

    @cached_property
    def tested(self) -> Tested | None:
        """The answers of the best configuration in its test."""
        return tested(self.best_run, self.best.scored) if self.best and self.best_run else None


def summarize(collection: Collection, baseline: Mapping[str, str] | None = None) -> Summary:
    """Raises `ResultError` for a baseline that no configuration has."""
    metric, is_higher, runs, notes = _one_metric(collection.runs)
    found, shared = configurations(runs)
    sign = -1 if is_higher else 1
    ranked = sorted(found, key=lambda one: (one.score is None, sign * one.score.mean if one.score else 0.0))
    chosen = dict(baseline) if baseline else _default_baseline(found)
    _check_baseline(chosen, found)
    pairs = [(one, other) for one in ranked if one.scored and (other := _counterpart(one, chosen, ranked))]
    compared = compare([(one.scores, other.scores) for one, other in pairs], higher_is_better=is_higher)
    scored = [one for one in ranked if one.scored]
    apart = told_apart(scored[0].scores, [one.scores for one in scored[1:]]) if scored else []
    return Summary(
        collection,
        metric,
        is_higher,
        found,
        ranked,
        shared,
        chosen,
        {one.name: comparison for (one, _), comparison in zip(pairs, compared, strict=True)},
        [one for one, differs in zip(scored[1:], apart, strict=True) if not differs],
        [*notes, *warnings_of([run for run in runs if run.is_scored]), *fold_warnings(found)],
    )


def headline(summary: Summary) -> list[str]:
    """The decision, in sentences."""
    best = summary.best
    if best is None or best.score is None:
        return ["No run has completed, so that nothing can be said."]
    said = [f"Best on validation: {best.name}, {summary.metric} {shown(best.score)} over {seeds(best.score.count)}."]
    if (probed := best.probed(summary.metric)) is not None:
        said.append(f"The probe of the untouched features has {probed:.4f} there.")
    if summary.tested is not None:
        said.append(headline_of(summary.tested))
    if summary.equals:
        names = ", ".join(one.name for one in summary.equals[:4])
        more = f" and {len(summary.equals) - 4} more" if len(summary.equals) > 4 else ""
        said.append(f"With {seeds(best.score.count)} it cannot be told apart from {names}{more}.")
        costs = [(one.mean("seconds") or 0.0, one) for one in (best, *summary.equals)]
        cheapest = min(costs, key=lambda cost: cost[0])
        said.append(f"Of these {cheapest[1].name} takes the least time, {cheapest[0]:.0f} s a run.")
    elif sum(one.score is not None for one in summary.ranked) > 1:
        said.append("It can be told apart from every other configuration.")
    return said


def verdict(summary: Summary, one: Configuration) -> str:
    """How a configuration compares with its baseline, in words."""
    comparison = summary.comparisons.get(one.name)
    if comparison is None:
        return "the baseline" if _matches(one, summary.baseline) else ""
    difference = comparison.difference
    if difference.interval is None:
        return f"cannot tell with {seeds(difference.count)}"
    low, high = difference.interval
    numbers = f"{difference.mean:+.4f} ({low:+.4f} to {high:+.4f}), p {comparison.p:.2g}"
    if comparison.verdict == "cannot tell":
        return f"cannot tell with {seeds(difference.count)}: {numbers}"
    return f"{comparison.verdict}: {numbers}"


def shown(score: Estimate | None) -> str:
    if score is None:
        return ""
    return f"{score.mean:.4f}" if score.half is None else f"{score.mean:.4f} ± {score.half:.4f}"


def seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def table(summary: Summary) -> tuple[list[str], list[list[Any]]]:
    """Header and a row per configuration, for files: numbers as numbers."""
    header = [
        *summary.columns, "seeds", "failed", summary.metric, "interval_low", "interval_high",
        summary.metric.replace("val/", "test/"), "against_baseline", "difference", "p", "verdict",
        "seconds", "trainable_params", "peak_memory_mb", "samples_per_second",
    ]  # fmt: skip
    rows = []
    for one in summary.ranked:
        score, tested, against = one.score, one.tested(summary.metric), summary.comparisons.get(one.name)
        low, high = score.interval if score and score.interval else (None, None)
        rows.append(
            [
                *one.columns.values(), len(one.scores), len(one.failed), score.mean if score else None, low, high,
                tested.mean if tested else None, " ".join(f"{k}={v}" for k, v in summary.baseline.items()),
                against.difference.mean if against else None, against.p if against else None,
                against.verdict if against else "", *(one.mean(key) for key in COSTS),
            ]
        )  # fmt: skip
    return header, rows


def write_tables(summary: Summary, folder: Path) -> list[Path]:
    """summary.csv, summary.md and, where pyarrow is installed, summary.parquet."""
    header, rows = table(summary)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_text(folder / "summary.csv", text.getvalue())
    write_text(folder / "summary.md", visible(markdown(summary)))
    written = [folder / "summary.csv", folder / "summary.md"]
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return written
    columns = {name: list(values) for name, values in zip(header, zip(*rows, strict=True), strict=True)}
    with write_whole(folder / "summary.parquet") as file:
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return [*written, folder / "summary.parquet"]


def shown_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and a row per configuration, for a person."""
    header = [*summary.columns, "seeds", summary.metric, "test", "against the baseline", "seconds"]
    rows = []
    for one in summary.ranked:
        seconds = one.mean("seconds")
        cells = [
            *one.columns.values(), str(len(one.scores)), shown(one.score), shown(one.tested(summary.metric)),
            verdict(summary, one), f"{seconds:.0f}" if seconds is not None else "",
        ]  # fmt: skip
        rows.append(cells)
    return header, rows


def markdown(summary: Summary) -> str:
    header, rows = shown_table(summary)
    lines = [*map(_cell, headline(summary)), ""]
    lines += [f"Baseline: {_cell(_words(summary.baseline))}. Intervals are 95%, of Student's t over seeds.", ""]
    lines += ["| " + " | ".join(_cell(name) for name in header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    for title, entries in problems(summary).items():
        lines += ["", f"{title}:", *(f"- {_cell(entry)}" for entry in entries)]
    return "\n".join(lines) + "\n"


def problems(summary: Summary) -> dict[str, list[str]]:
    """Whatever a person should hold against the comparison, by its kind; kinds without any are left out."""
    failed = []
    for one in summary.ranked:
        for run in one.failed:
            error = run.result.error
            why = f": {error['type']}: {' '.join(error['message'].split())}" if error and error["message"] else ""
            failed.append(f"{run.folder.relative_to(summary.collection.folder)} {run.result.status}{why}")
    kinds = {
        "To be held against the comparison": summary.warnings,
        "Runs that did not complete": failed,
        "Jobs that left no result": summary.collection.missing,
        "Results that cannot be read": summary.collection.unreadable,
    }
    return {kind: entries for kind, entries in kinds.items() if entries}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _words(columns: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in columns.items()) or "the only configuration"


def _one_metric(runs: Sequence[Run]) -> tuple[str, bool, list[Run], list[str]]:
    """The metric that most runs looked at, whether higher is better, the runs that did, and a word on others."""
    of = {id(run): str(run.settings.get("task.monitor", "")) for run in runs}
    counts = Counter(of.values())
    if not counts:
        return "val/loss", False, [], []
    metric = counts.most_common(1)[0][0]
    chosen = [run for run in runs if of[id(run)] == metric]
    modes = [run.result.best["mode"] for run in chosen if run.result.best]
    left = len(runs) - len(chosen)
    note = [f"left out: {left} of {len(runs)} runs, which looked at another metric than {metric}"] if left else []
    return metric, bool(modes) and modes[0] == "max", chosen, note


def _default_baseline(found: Sequence[Configuration]) -> dict[str, str]:
    key, value = BASELINE
    if any(one.columns.get(key) == value for one in found):
        return {key: value}
    return dict(found[0].columns) if found else {}


def _check_baseline(baseline: Mapping[str, str], found: Sequence[Configuration]) -> None:
    for key, value in baseline.items():
        have = list(dict.fromkeys(one.columns[key] for one in found if key in one.columns))
        if not have:
            columns = list(found[0].columns) if found else []
            raise ResultError(f"--baseline {key}={value}: configurations do not differ in {key}; they differ in: "
                              f"{', '.join(columns) or 'nothing'}")  # fmt: skip
        if value not in have:
            raise ResultError(f"--baseline {key}={value}: no configuration has it; {did_you_mean(value, have)}")


def _matches(one: Configuration, baseline: Mapping[str, str]) -> bool:
    return all(one.columns.get(key) == value for key, value in baseline.items())


def _counterpart(
    one: Configuration, baseline: Mapping[str, str], found: Sequence[Configuration]
) -> Configuration | None:
    """What a configuration is compared with: the same but for the baseline's columns, or the only baseline."""
    if _matches(one, baseline):
        return None
    bases = [other for other in found if _matches(other, baseline) and other.scored]
    same = [other for other in bases if other.columns == {**one.columns, **baseline}]
    return next(iter(same or (bases if len(bases) == 1 else [])), None)
