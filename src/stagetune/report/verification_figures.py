"""The pictures of a verification: distances, rates, stages, and the images that are hardest to tell."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from stagetune.report.saved import save
from stagetune.visible import visible_name

FloatArray = npt.NDArray[np.floating[Any]]
_SAME, _DIFFERENT, _MARK = "#2a7f62", "#b0563f", "#333333"
BINS = 60


def draw_distances(
    distance: FloatArray, same: FloatArray, different: FloatArray, *, threshold: float, path: Path
) -> None:
    """How far same and different pairs are apart, each as a share of its own; `same` and `different` are counts."""
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(0, float(distance.max()) * 1.001 + 1e-9, BINS)
    for counts, colour, label in ((same, _SAME, "same identity"), (different, _DIFFERENT, "different")):
        heights, _ = np.histogram(distance, edges, weights=counts / counts.sum())
        label = f"{label}, {int(counts.sum()):,} pairs"
        axes.stairs(heights, edges, fill=True, alpha=0.45, color=colour, label=label)
    axes.axvline(threshold, color=_MARK, linewidth=1.2, label=f"threshold {threshold:.3f}, fitted in validation")
    axes.set_xlabel("distance")
    axes.set_ylabel("share of pairs")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False)
    save(figure, path)


def draw_det(
    false_accept: FloatArray,
    false_reject: FloatArray,
    band: tuple[FloatArray, FloatArray, FloatArray],
    over: str,
    path: Path,
) -> None:
    """The two errors against each other on logarithmic axes, with the 95% band of false rejects (rate, low, high).

    `over` says what the band draws anew, identities or groups.
    """
    figure = Figure(figsize=(6.0, 5.5), layout="constrained")
    axes = figure.subplots()
    shown = (false_accept > 0) & (false_reject > 0)
    axes.fill_between(*band, color="#2a5fa5", alpha=0.15, linewidth=0, label=f"95% over {over}")
    axes.plot(false_accept[shown], false_reject[shown], color="#2a5fa5")
    axes.plot([1e-4, 1], [1e-4, 1], color="#bbbbbb", linewidth=1, label="equal errors")
    for axis in (axes.set_xscale, axes.set_yscale):
        axis("log")
    axes.set_xlim(1e-4, 1)
    axes.set_ylim(1e-4, 1)
    axes.set_xlabel("false accept rate (different pairs called same)")
    axes.set_ylabel("false reject rate (same pairs called different)")
    axes.legend(frameon=False, loc="lower left")
    save(figure, path)


def draw_stages(reports: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """AUC and equal error rate after each stage, with their intervals."""
    figure = Figure(figsize=(8.0, 3.8), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, 2), (("auc", "AUC"), ("eer", "equal error rate")), strict=True):
        found = [report[key] for report in reports.values()]
        values = np.array([one["value"] for one in found])
        reach = np.array([[one["value"] - one["low"], one["high"] - one["value"]] for one in found]).T
        axes.errorbar(values, range(len(found)), xerr=reach, fmt="o", color="#2a5fa5", capsize=4)
        axes.set_yticks(range(len(found)), [visible_name(name) for name in reports])
        axes.set_ylim(len(found) - 0.5, -0.5)
        over = next(
            (report["interval_over"] for report in reports.values() if "interval_over" in report), "identities"
        )
        axes.set_xlabel(f"validation {label}, 95% over {over}")
        axes.grid(axis="x", color="#eeeeee")
        axes.set_axisbelow(True)
    save(figure, path)


def draw_map(points: FloatArray, identity: Sequence[str], path: Path, *, most: int = 10) -> None:
    """Embeddings in two dimensions [n, 2], the `most` frequent identities in colour, all others gray."""
    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    axes = figure.subplots()
    names, counts = np.unique(np.asarray(identity), return_counts=True)
    chosen = names[np.argsort(-counts, kind="stable")[:most]]
    others = ~np.isin(identity, chosen)
    axes.scatter(points[others, 0], points[others, 1], s=8, color="#cccccc", linewidths=0)
    for i, name in enumerate(chosen):
        own = points[np.asarray(identity) == name]
        axes.scatter(own[:, 0], own[:, 1], s=14, color=f"C{i}", label=visible_name(name), linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(figure, path)


def draw_hardest(rows: Mapping[str, Sequence[tuple[Any, Any, float]]], path: Path) -> None:
    """Pairs of images [height, width, 3] with their distance: under each title a row, the hardest first."""
    columns = max((len(pairs) for pairs in rows.values()), default=1) or 1
    figure = Figure(figsize=(1.7 * columns + 0.4, 2 * 1.9 * len(rows) + 0.6), layout="constrained")
    for title, part in zip(rows, figure.subfigures(len(rows), 1, squeeze=False).flat, strict=True):
        part.suptitle(title, fontsize=10)
        grid = part.subplots(2, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for (first, second, distance), (upper, lower) in zip(rows[title], grid.T, strict=False):
            upper.imshow(first)
            lower.imshow(second)
            upper.set_title(f"{distance:.2f}", fontsize=9)
    save(figure, path)
