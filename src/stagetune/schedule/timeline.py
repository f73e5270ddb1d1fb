"""The learning rate of each block over the epochs, for a picture. Pure, no torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagetune.config.schema import HEAD
from stagetune.schedule.plan import Plan, PlannedStage

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Timeline:
    """`rates` [blocks, epochs x points], NaN where frozen; `stages` are name, start_epoch and epochs of each."""

    blocks: list[str]
    rates: FloatArray
    stages: list[dict[str, str | int]]


def rate_timeline(plan: Plan, points_per_epoch: int = 40) -> Timeline:
    """Blocks from the deepest to the head, and their rates.

    A block that is open in part, or at several rates, shows its highest. A stage that a metric ends is as long as
    it may become; one that is given in steps is one epoch wide, since only the data says how many it takes.
    """
    blocks = [*plan.blocks, HEAD]
    stages: list[dict[str, str | int]] = []
    parts = []
    for stage in plan.stages:
        start = sum(int(earlier["epochs"]) for earlier in stages)
        stages.append({"name": _label(stage), "start_epoch": start, "epochs": stage.epochs or 1})
        points = (stage.epochs or 1) * points_per_epoch
        scale = (stage.steps or points) / points
        factors = np.array(
            [1.0 if stage.target else stage.lr_factor(points_per_epoch, [], int(i * scale)) for i in range(points)]
        )
        highest = [max((stage.rates[g.name] for g in plan.groups if g.block == b), default=0.0) for b in blocks]
        parts.append(np.array([[rate or np.nan] for rate in highest]) * factors)
    return Timeline(blocks, np.concatenate(parts, axis=1), stages)


def _label(stage: PlannedStage) -> str:
    if stage.steps is not None:
        return f"{stage.name} ({stage.steps} steps)"
    return f"{stage.name} (at most)" if stage.until else stage.name
