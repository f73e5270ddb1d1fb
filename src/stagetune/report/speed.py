"""How good pruned networks are for how fast they are: a point for each, and the front of those that nothing beats."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from stagetune.artifacts import RunDir, stored_json
from stagetune.report.collect import Run
from stagetune.report.summary import Summary

BATCH = "8"  # images at once, of the latencies that are compared


@dataclass(frozen=True)
class Point:
    """One network as it is used.

    Attributes:
        label: of the configuration; `unpruned` before any was pruned.
        kind: unpruned, fp32 or int8.
        latency: milliseconds an image.
        quality: the summary's metric.
    """

    label: str
    kind: str
    latency: float
    quality: float


def speed_points(summary: Summary) -> list[Point]:
    """The unpruned networks, each configuration that prunes, and those of its runs that were exported in int8.

    A run has timed both its networks in turns, on a machine that may have been busier than that of another run: so it
    says by what share it became faster, of the median of what all runs took before. Values are means over a
    configuration's runs. Empty where no run has pruned.
    """
    pruned = [run for one in summary.ranked for run in one.scored if _is_timed(run)]
    if not pruned:
        return []
    unpruned: dict[int, list[Run]] = {}  # by the multiply-adds of the network
    for run in pruned:
        unpruned.setdefault(run.result.pruning["macs"]["before"], []).append(run)
    usual = {macs: median(_times(run)[0] for run in runs) for macs, runs in unpruned.items()}
    found: list[Point] = []
    for macs, runs in unpruned.items():
        figures = [run.result.pruning for run in runs]
        known = [one["quality"]["before"] for one in figures if one.get("metric") == summary.metric]
        if known:
            found.append(Point("unpruned", "unpruned", usual[macs], _mean(known)))
    for one in summary.ranked:
        runs = [run for run in one.scored if _is_timed(run)]
        if runs:
            shares = [usual[run.result.pruning["macs"]["before"]] * _times(run)[1] / _times(run)[0] for run in runs]
            found.append(Point(one.name, "fp32", _mean(shares), _mean([run.score for run in runs])))
            exported = [
                (share * faster, quality)
                for run, share in zip(runs, shares, strict=True)
                for faster, quality in _exported(run, summary.metric)
            ]
            if exported:
                found.append(Point(one.name, "int8", *map(_mean, zip(*exported, strict=True))))
    return found


def pareto(points: Sequence[tuple[float, float]], *, higher_is_better: bool) -> list[tuple[float, float]]:
    """The points (cost, score) that no other is at least as good as in both, by rising cost; each once.

    >>> pareto([(1, 0.5), (2, 0.4), (3, 0.9)], higher_is_better=True)
    [(1, 0.5), (3, 0.9)]
    """
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1] if higher_is_better else point[1])):
        if not front or (score > front[-1][1] if higher_is_better else score < front[-1][1]):
            front.append((cost, score))
    return front


def _exported(run: Run, metric: str) -> Iterator[tuple[float, float]]:
    """Of each int8 file of a run its share of the network's own time, and its quality; unknown ones are left out."""
    for path in sorted(RunDir(run.folder).exports.glob("*.json")):
        try:
            said = stored_json(path)["provenance"]["export"]
            is_same = said["precision"] == "int8" and said["measure"] == metric.removeprefix("val/")
            before, after = (_latency(said["latency_ms"][when]) for when in ("before", "after"))
            quality = float(said["after"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if is_same and before and after:
            yield after / before, quality


def _is_timed(run: Run) -> bool:
    return bool(run.result.pruning.get("latency_ms")) and all(_times(run))


def _times(run: Run) -> tuple[float, float]:
    """Before and after pruning."""
    measured = run.result.pruning["latency_ms"]
    return _latency(measured.get("before")), _latency(measured.get("after"))


def _latency(measured: Any) -> float:
    """That of `BATCH` images at once, or the only one there is; 0 where there is none."""
    value = measured.get(BATCH) if isinstance(measured, Mapping) else measured
    return float(value) if isinstance(value, int | float) else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
