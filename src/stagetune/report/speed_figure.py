"""The picture of quality against latency."""

from matplotlib.figure import Figure

from stagetune.report.speed import BATCH, pareto, speed_points
from stagetune.report.summary import Summary

COLOURS = {"unpruned": "#8a7a1f", "fp32": "#3b7dd8", "int8": "#d2691e"}
MARKS = {"unpruned": "D", "fp32": "o", "int8": "s"}
WORDS = {"unpruned": "before pruning, fp32", "fp32": "pruned and fine-tuned, fp32", "int8": "exported in int8"}


def draw_speed(summary: Summary) -> Figure | None:
    """A point for each configuration that prunes, with the Pareto front; None where none does.

    Numbers are the ranks of the table. Milliseconds of one thread are compared within a machine only.
    """
    points = speed_points(summary)
    if len(points) < 2:
        return None
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axes = figure.subplots()
    for kind, words in WORDS.items():
        chosen = [point for point in points if point.kind == kind]
        if chosen:
            place = [point.latency for point in chosen], [point.quality for point in chosen]
            axes.scatter(*place, color=COLOURS[kind], marker=MARKS[kind], s=42, zorder=2, label=words)
    for point in points:
        rank = summary.rank.get(point.label)
        axes.annotate(
            f"{rank or ''}", (point.latency, point.quality), xytext=(5, 4), textcoords="offset points", fontsize=8
        )
    front = pareto([(point.latency, point.quality) for point in points], higher_is_better=summary.higher_is_better)
    axes.plot(*zip(*front, strict=True), color="#888888", linewidth=1, zorder=1, label="Pareto front")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"milliseconds an image, in batches of {BATCH}")
    axes.set_ylabel(summary.metric)
    axes.margins(y=0.15)
    figure.legend(frameon=False, loc="outside right upper", fontsize=8)
    return figure
