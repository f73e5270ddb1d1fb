"""The pictures of one run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from stagetune.report.metrics import Row
from stagetune.report.saved import save
from stagetune.visible import visible_name

FloatArray = npt.NDArray[np.floating[Any]]
_SHADES = ("#e8eef7", "#fbf3e4")
_SIZE = (8.0, 4.5)
MOST_CURVES = 14  # that a legend can name; more are named by their blocks


def draw_curves(rows: Sequence[Row], stages: Sequence[Mapping[str, Any]], monitor: str, path: Path) -> None:
    """Loss and the monitored metric by epoch, the stages shaded."""
    figure = Figure(figsize=(_SIZE[0], 6.0), layout="constrained")
    losses, metric = figure.subplots(2, 1, sharex=True)
    epochs = [row["epoch"] for row in rows]
    for key, style in (("train/loss", "o-"), ("val/loss", "s--")):
        losses.plot(epochs, [row[key] for row in rows], style, markersize=4, label=key)
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    if monitor != "val/loss":
        values = [row[monitor] for row in rows]
        metric.plot(epochs, values, "o-", color="#2a7f62", markersize=4)
        metric.set_ylabel(monitor)
    metric.set_xlabel("epoch")
    metric.xaxis.get_major_locator().set_params(integer=True)
    for axes in (losses, metric):
        _shade(axes, stages, named=axes is losses)
    save(figure, path)


def draw_learning_rates(
    curve: dict[str, tuple[FloatArray, FloatArray]], stages: Sequence[Mapping[str, Any]], path: Path
) -> None:
    """Learning rate of each parameter group over the epochs; `curve` maps a group to (epochs, rates)."""
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    names = {name: name if len(curve) <= MOST_CURVES else _block(name) for name in curve}
    colours = {label: f"C{i % 10}" for i, label in enumerate(dict.fromkeys(names.values()))}
    for name, (epochs, rates) in curve.items():
        label = "_nolegend_" if names[name] in axes.get_legend_handles_labels()[1] else names[name]
        shown = np.where(rates > 0, rates, np.nan)
        axes.plot(epochs, shown, drawstyle="steps-post", color=colours[names[name]], label=label)
    axes.set_yscale("log")
    axes.set_xlabel("epochs trained")
    axes.set_ylabel("learning rate")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _shade(axes, stages, named=True, offset=0.0)
    save(figure, path)


def _block(group: str) -> str:
    """The block that a group belongs to: backbone.layer4.0.conv1.weight -> backbone.layer4."""
    return ".".join(group.split(".")[: 2 if group.startswith("backbone.") else 1])


def draw_plan(blocks: Sequence[str], rates: FloatArray, stages: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Blocks against epochs, coloured by learning rate [blocks, points]; frozen (NaN) is blank."""
    figure = Figure(figsize=(_SIZE[0], 0.45 * len(blocks) + 1.4), layout="constrained")
    axes = figure.subplots()
    epochs = stages[-1]["start_epoch"] + stages[-1]["epochs"]
    shown = np.where(rates > 0, rates, np.nan)
    high = float(np.nanmax(shown))
    low = max(float(np.nanmin(shown)), high / 1e4)  # a rate that falls to nothing would take all the colours
    edges = np.linspace(0, epochs, rates.shape[1] + 1)
    scale = LogNorm(low / 1.5, high * 1.05)
    mesh = axes.pcolormesh(edges, np.arange(len(blocks) + 1), shown.clip(low), norm=scale, cmap="viridis")
    figure.colorbar(mesh, ax=axes, label="learning rate", pad=0.02)
    axes.set_yticks(np.arange(len(blocks)) + 0.5, [visible_name(block) for block in blocks])
    axes.set_xlabel("epochs")
    for stage in stages:
        axes.axvline(stage["start_epoch"], color="#555555", linewidth=0.8)
        middle = stage["start_epoch"] + stage["epochs"] / 2
        axes.annotate(
            visible_name(stage["name"]),
            (middle, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="bottom",
            fontsize=9,
        )
    save(figure, path)


def draw_roc(
    false_accept: FloatArray,
    true_accept: FloatArray,
    *,
    band: tuple[FloatArray, FloatArray, FloatArray],
    auc: float,
    at: tuple[float, float],
    threshold: float,
    path: Path,
) -> None:
    """ROC curve of the test, its band (rates, low, high) and the operating point `at` (false, true accept rate)."""
    figure = Figure(figsize=(6.0, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    axes.fill_between(*band, color="#2a5fa5", alpha=0.15, linewidth=0, label="95% over identities")
    axes.plot(false_accept, true_accept, color="#2a5fa5", label=f"AUC {auc:.4f}")
    axes.plot(*at, "o", color="#c0392b", label=f"distance up to {threshold:.3f}, chosen in validation")
    axes.set_xlabel("false accept rate (different pairs called same)")
    axes.set_ylabel("true accept rate (same pairs called same)")
    axes.legend(frameon=False, loc="lower right")
    save(figure, path)


def _shade(axes: Axes, stages: Sequence[Mapping[str, Any]], *, named: bool, offset: float = -0.5) -> None:
    """Shade the epochs of each stage; what an epoch gave is drawn at its number, so its band begins half before."""
    for i, stage in enumerate(stages):
        start = stage["start_epoch"] + offset
        axes.axvspan(start, start + stage["epochs"], color=_SHADES[i % 2], zorder=0, linewidth=0)
        if named:
            middle = start + stage["epochs"] / 2
            axes.annotate(
                visible_name(stage["name"]),
                (middle, 1.0),
                xycoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=9,
            )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
