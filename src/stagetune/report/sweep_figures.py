"""The pictures of a comparison, as SVG for a page: text stays text, and lines take the page's own colour."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise
from math import isfinite
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from stagetune.report.configurations import Configuration
from stagetune.report.speed import pareto
from stagetune.report.speed_figure import draw_speed
from stagetune.report.statistics import estimate
from stagetune.report.summary import Summary
from stagetune.visible import visible, visible_name

INK = "#0a0b0c"  # stands for the page's text colour
PALETTE = ("#3b7dd8", "#d2691e", "#2e9e6b", "#b0508f", "#8a7a1f", "#6b6bd6", "#c0444a", "#3a9ca6")
MARKS = "osD^vP*X"
MOST = 8  # configurations in a picture that shows each by itself
POINTS = 100  # and in one that has a point for each: the best
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def pictures(summary: Summary) -> dict[str, str]:
    """Title and SVG of each picture that the runs have something for."""
    drawn: dict[str, Callable[[Summary], Figure | None]] = {
        "Quality against latency": draw_speed,
        "Score against cost": _cost,
        "Memory against speed": _memory,
        "What each factor does": _effects,
        "Learning curves": _curves,
        "What each stage adds": _gains,
        "Schedules": _timelines,
    }
    found = {}
    for title, draw in drawn.items():
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": title}):
            figure = draw(summary)
            if figure is not None:
                found[title] = _svg(figure, title)
    return found


def _svg(figure: Figure, title: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    wide = figure.get_figwidth() * 1.15  # inches of the page, where it has so many
    style = f"max-width: {wide:.1f}in; min-width: min({wide:.1f}in, 32rem)"
    return visible(text).replace("<svg", f'<svg role="img" aria-label="{title}" style="{style}"', 1)


def _shown_by(summary: Summary, wanted: Sequence[str]) -> tuple[str, str]:
    """The columns that colour and mark stand for: those wanted that differ, or else the first ones; may be empty."""
    columns = [*(column for column in wanted if column in summary.columns), *summary.columns, "", ""]
    first = columns[0]
    return first, next(column for column in columns if column != first or not column)


def _colours(
    summary: Summary, wanted: Sequence[str] = ("schedule",)
) -> tuple[Callable[[Configuration], str], Callable[[Configuration], str]]:
    first, second = _shown_by(summary, wanted)

    def pick(column: str, options: Sequence[str]) -> Callable[[Configuration], str]:
        of = {level: options[i % len(options)] for i, level in enumerate(_levels(summary, column))}
        return lambda one: of[one.columns[column]] if column else options[0]

    return pick(first, PALETTE), pick(second, MARKS)


def _levels(summary: Summary, column: str) -> list[str]:
    """Values of a column, in the order that they were asked for."""
    return list(dict.fromkeys(one.columns[column] for one in summary.asked if column in one.columns))


def _cost(summary: Summary) -> Figure | None:
    scored = [one for one in summary.ranked if one.scored][:POINTS]
    if len(scored) < 2:
        return None
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (key, label) in zip(
        panels, (("seconds", "seconds of a run"), ("trainable", "parameters trained at most")), strict=True
    ):
        points = [(cost, one) for one in scored if (cost := one.mean(key)) is not None]
        _points(axes, summary, points)
        scores = [(cost, one.score.mean) for cost, one in points if one.score]
        front = pareto(scores, higher_is_better=summary.higher_is_better)
        axes.plot(*zip(*front, strict=True), color=INK, alpha=0.35, linewidth=1, zorder=1, label="Pareto front")
        axes.set_xlabel(label)
        if key == "trainable":
            axes.set_xscale("log")
    panels[0].set_ylabel(summary.metric)
    _legend(figure, summary)
    return figure


def _memory(summary: Summary) -> Figure | None:
    scored = [one for one in summary.ranked if one.scored and one.mean("memory") and one.mean("speed")][:POINTS]
    if len(scored) < 2:
        return None
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    columns = ("precision", "accumulation")
    colour, mark = _colours(summary, columns)
    for one in scored:
        place = (one.mean("speed") or 0.0, one.mean("memory") or 0.0)
        axes.scatter(*place, color=colour(one), marker=mark(one), s=42, zorder=2)
        rank = summary.rank[one.name]
        axes.annotate(f"{rank}", place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("images per second in the slowest stage")
    axes.set_ylabel("peak memory, MB")
    _legend(figure, summary, columns)
    return figure


def _points(axes: Axes, summary: Summary, points: Sequence[tuple[float, Configuration]]) -> None:
    colour, mark = _colours(summary)
    for cost, one in points:
        assert one.score is not None
        axes.errorbar(
            cost, one.score.mean, yerr=one.score.half or 0, fmt=mark(one), color=colour(one), markersize=6,
            elinewidth=1, alpha=0.9, zorder=2,
        )  # fmt: skip
        rank = summary.rank[one.name]
        axes.annotate(f"{rank}", (cost, one.score.mean), xytext=(5, 4), textcoords="offset points", fontsize=8)


def _legend(figure: Figure, summary: Summary, wanted: Sequence[str] = ("schedule",)) -> None:
    """What colours and marks mean; the numbers are those of the table."""
    first, second = _shown_by(summary, wanted)
    handles = [
        Line2D(
            [], [], marker="o", linestyle="", color=PALETTE[i % len(PALETTE)], label=f"{first} {visible_name(level)}"
        )
        for i, level in enumerate(_levels(summary, first))
    ] + [
        Line2D([], [], marker=MARKS[i % len(MARKS)], linestyle="", color=INK, label=f"{second} {visible_name(level)}")
        for i, level in enumerate(_levels(summary, second))
    ]
    if handles:
        figure.legend(handles=handles, frameon=False, loc="outside right upper", fontsize=8)


def _effects(summary: Summary) -> Figure | None:
    """Each factor by itself, averaged over all others, and each two of them together."""
    factors = [column for column in summary.columns if 1 < len(_levels(summary, column)) <= MOST]
    if not factors or not any(one.scored for one in summary.ranked):
        return None
    pairs = list(combinations(factors, 2))[:6]
    panels = len(factors) + len(pairs)
    across = min(3, panels)
    down = -(-panels // across)
    figure = Figure(figsize=(3.1 * across, 2.7 * down), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes in grid.flat[panels:]:
        axes.set_axis_off()
    for axes, factor in zip(grid.flat, factors, strict=False):
        _effect(axes, summary, factor, {}, INK, "")
        axes.set_title(factor, fontsize=9)
    for axes, (first, second) in zip(grid.flat[len(factors) :], pairs, strict=False):
        for i, level in enumerate(_levels(summary, second)):
            _effect(axes, summary, first, {second: level}, PALETTE[i % len(PALETTE)], level)
        axes.set_title(f"{first} for each {second}", fontsize=9)
        axes.legend(frameon=False, fontsize=7)
    for axes in grid[:, 0]:
        axes.set_ylabel(summary.metric)
    return figure


def _effect(axes: Axes, summary: Summary, factor: str, within: Mapping[str, str], colour: str, label: str) -> None:
    """Mean by the factor's levels, with the 95% interval over seeds (of each seed's mean over all else)."""
    levels = _levels(summary, factor)
    xs, means, halves = [], [], []
    for i, level in enumerate(levels):
        wanted = {**within, factor: level}
        chosen = [one for one in summary.ranked if wanted.items() <= one.columns.items() and one.scored]
        by_seed: dict[int, list[float]] = {}
        for one in chosen:
            for seed, score in one.scores.items():
                by_seed.setdefault(seed, []).append(score)
        if by_seed:
            found = estimate([float(np.mean(values)) for values in by_seed.values()])
            xs.append(i)
            means.append(found.mean)
            halves.append(found.half or 0.0)
    axes.errorbar(xs, means, yerr=halves, fmt="o-", color=colour, markersize=4, linewidth=1, label=label)
    axes.set_xticks(range(len(levels)), levels, rotation=20 if max(map(len, levels)) > 6 else 0)
    axes.margins(x=0.15)


def _curves(summary: Summary) -> Figure | None:
    chosen = [one for one in summary.ranked if one.scored][:MOST]
    rows = {one.name: [run.rows() for run in one.scored] for one in chosen}
    chosen = [one for one in chosen if any(rows[one.name])]
    if not chosen:
        return None
    across = min(4, len(chosen))
    down = -(-len(chosen) // across)
    figure = Figure(figsize=(2.6 * across, 2.3 * down + 0.3), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, sharex=True, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    colour, _ = _colours(summary)
    for axes, one in zip(grid.flat, chosen, strict=False):
        for i, stage in enumerate(one.scored[0].result.stages):
            if i % 2:
                axes.axvspan(
                    stage["start_epoch"] - 0.5, stage["start_epoch"] + stage["epochs"] - 0.5, color=INK, alpha=0.07,
                    linewidth=0,
                )  # fmt: skip
        for run in rows[one.name]:
            points = [(row["epoch"], row.get(summary.metric)) for row in run]
            known = [(epoch, value) for epoch, value in points if isinstance(value, float) and isfinite(value)]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour(one), linewidth=1, alpha=0.8)
        axes.set_title(f"{summary.rank[one.name]}  {_cut(one.name)}", fontsize=7)
    for axes in grid[:, 0]:
        axes.set_ylabel(summary.metric)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    return figure


def _gains(summary: Summary) -> Figure | None:
    """Bars from one stage's last validation to the next one's."""
    chosen = [one for one in summary.ranked if one.scored and len(one.scored[0].result.stages) > 1][:MOST]
    if not chosen:
        return None
    figure = Figure(figsize=(8, 0.42 * len(chosen) + 1.1), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(chosen):
        names = [stage["name"] for stage in one.scored[0].result.stages]
        values = [
            float(np.mean([run.result.stages[i]["val"][summary.metric] for run in one.scored]))
            for i in range(len(names))
            if all(len(run.result.stages) > i and summary.metric in run.result.stages[i]["val"] for run in one.scored)
        ]
        for i, (before, after) in enumerate(pairwise(values)):
            axes.barh(place, after - before, left=before, height=0.5, color=PALETTE[(i + 1) % len(PALETTE)])
            axes.annotate(names[i + 1], ((before + after) / 2, place), ha="center", va="center", fontsize=7)
        if values:
            axes.plot(values[0], place, "|", color=INK, markersize=14)
            axes.annotate(
                f"{names[0]} ", (values[0], place), ha="right", va="center", fontsize=7, xytext=(-3, 0),
                textcoords="offset points",
            )  # fmt: skip
    labels = [f"{summary.rank[one.name]}  {_cut(one.name)}" for one in chosen]
    axes.set_yticks(range(len(chosen)), labels, fontsize=8)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.use_sticky_edges = False
    axes.margins(x=0.12)  # for the first stage's name
    axes.set_xlabel(f"{summary.metric} after each stage, mean over seeds")
    return figure


def _timelines(summary: Summary) -> Figure | None:
    """Which blocks are open when, once for each course of stages, with the best score that it came to."""
    seen: dict[str, Configuration] = {}
    for one in summary.ranked:
        if one.scored:
            stages = one.scored[0].result.stages
            key = repr([(stage["name"], stage["epochs"], stage["trainable_blocks"]) for stage in stages])
            seen.setdefault(key, one)
    chosen = list(seen.values())[:MOST]
    if not chosen:
        return None
    across = min(4, len(chosen))
    down = -(-len(chosen) // across)
    figure = Figure(figsize=(2.6 * across, 1.9 * down + 0.3), layout="constrained")
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for axes in grid.flat[len(chosen) :]:
        axes.set_axis_off()
    colour, _ = _colours(summary)
    opened = [stage["trainable_blocks"] for one in chosen for stage in one.scored[0].result.stages]
    blocks = list(dict.fromkeys(block for names in sorted(opened, key=len, reverse=True) for block in names))
    for axes, one in zip(grid.flat, chosen, strict=False):
        for stage in one.scored[0].result.stages:
            for block in stage["trainable_blocks"]:
                axes.barh(
                    blocks.index(block), stage["epochs"], left=stage["start_epoch"], height=0.7, color=colour(one),
                    edgecolor=INK, linewidth=0.4, alpha=0.85,
                )  # fmt: skip
        assert one.score is not None
        name = one.columns.get("schedule", one.scored[0].result.schedule)
        axes.set_title(f"{_cut(name)}: {one.score.mean:.4f}", fontsize=8)
        axes.set_yticks(range(len(blocks)), blocks, fontsize=7)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in grid[-1]:
        axes.set_xlabel("epoch")
    return figure


def _cut(name: str) -> str:
    name = visible_name(name)
    return name if len(name) <= 44 else f"{name[:43]}…"
