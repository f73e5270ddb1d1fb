"""The picture of `stagetune lr`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from stagetune.report.saved import save
from stagetune.visible import visible_name


def draw_rate_tests(tests: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss against rate, a panel for each stage.

    Args:
        tests: of each its `name`, `rates`, `losses` and `smoothed` [steps], and the rates `scheduled` and `proposed`,
            which may be None.
        path: of the picture.
    """
    figure = Figure(figsize=(4.0 * len(tests), 3.6), layout="constrained")
    for axes, test in zip(np.atleast_1d(figure.subplots(1, len(tests))), tests, strict=True):
        axes.plot(test["rates"], test["losses"], color="#bbbbbb", linewidth=1, label="each step")
        axes.plot(test["rates"], test["smoothed"], color="#2a5fa5", label="smoothed")
        axes.axvline(test["scheduled"], color="#555555", linestyle="--", label=f"schedule {test['scheduled']:.1e}")
        if test["proposed"]:
            axes.axvline(test["proposed"], color="#c0392b", label=f"proposed {test['proposed']:.1e}")
        low, high = min(test["losses"]), max(test["smoothed"])  # single steps beyond say nothing
        axes.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.1 * (high - low) + 1e-6)
        axes.set_xscale("log")
        axes.set_xlabel("learning rate")
        axes.set_title(visible_name(test["name"]))
        axes.legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("loss")
    save(figure, path)
