"""The pictures of a classifier's answers."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from stagetune.report.saved import save
from stagetune.visible import visible, visible_name

FloatArray = npt.NDArray[np.floating[Any]]
COLUMNS = 4  # of pictures


def draw_confusion(counts: npt.NDArray[np.int64], classes: Sequence[str], path: Path) -> None:
    """Confusion matrix of the test: rows the true class, columns the predicted one."""
    few = len(classes) <= 30
    figure = Figure(figsize=(6.5, 6.0), layout="constrained")
    axes = figure.subplots()
    share = counts / counts.sum(axis=1, keepdims=True).clip(1)
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    if few:
        names = [visible_name(name) for name in classes]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_parse_math(False)  # a class may be called $5
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if share[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"test: {np.trace(counts)} of {counts.sum()} right")
    save(figure, path)


def draw_reliability(
    probability: FloatArray,
    accuracy: FloatArray,
    band: tuple[FloatArray, FloatArray],
    count: npt.NDArray[np.int64],
    ece: float,
    path: Path,
) -> None:
    """How often answers of each probability are right, with 95% intervals, and how many there are.

    Probabilities on the diagonal can be believed.
    """
    figure = Figure(figsize=(5.5, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    upper.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1)
    reach = (accuracy - band[0], band[1] - accuracy)
    label = f"expected calibration error {ece:.3f}"
    upper.errorbar(probability, accuracy, yerr=reach, fmt="o", color="#2a5fa5", capsize=3, label=label)
    upper.set_ylabel("share of answers that are right")
    upper.set_ylim(-0.02, 1.02)
    upper.legend(frameon=False, loc="upper left")
    lower.bar(probability, count, width=0.04, color="#2a5fa5")
    lower.set_ylabel("images")
    lower.yaxis.get_major_locator().set_params(integer=True)
    lower.set_xlabel("probability of the answer")
    lower.set_xlim(0, 1.02)
    save(figure, path)


def draw_mistakes(mistakes: Sequence[tuple[Any, str, str, str, float]], path: Path) -> None:
    """Images [height, width, 3] with what they are called, their class, the wrong answer and its probability."""
    rows = -(-len(mistakes) // COLUMNS)
    figure = Figure(figsize=(2.3 * COLUMNS, 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, (image, name, label, answer, probability) in zip(grid.flat, mistakes, strict=False):
        axes.imshow(image)
        wrong = f"answered {shorten(answer, 16, placeholder='...')} ({probability:.2f})"
        said = f"{visible_name(name)[-26:]}\nis {shorten(label, 20, placeholder='...')}\n{wrong}"
        title = axes.set_title(visible(said), fontsize=9)
        title.set_parse_math(False)  # a class may be called $5
    save(figure, path, bbox_inches="tight")  # the layout cuts the names above square images
