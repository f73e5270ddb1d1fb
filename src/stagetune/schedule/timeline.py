"""The learning rate of each block over the epochs, for a picture. Pure, no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stagetune.schedule.plan import Plan, PlannedStage
from stagetune.schedule.spec import HEAD

FloatArray = npt.NDArray[np.float64]
Simulate = Callable[[PlannedStage, int], Sequence[Sequence[float]]]  # of a torch class: rates [steps][groups]


@dataclass(frozen=True)
class Timeline:
    """`rates` [blocks, epochs x points], NaN where frozen; `stages` are name, start_epoch and epochs of each."""

    blocks: list[str]
    rates: FloatArray
    stages: list[dict[str, str | int]]


def rate_timeline(plan: Plan, simulate: Simulate, points_per_epoch: int = 40) -> Timeline:
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
        seen = (np.arange(points) * (stage.steps or points) / points).astype(int)
        if stage.target:
            course = np.array(simulate(stage, points_per_epoch)).T[:, seen]  # [groups, points]
        else:
            length = stage.length(lambda _: points_per_epoch)
            factors = [stage.lr_factor(length, [], int(step)) for step in seen]
            course = np.array([[stage.rates[group.name]] for group in plan.groups]) * factors
        parts.append(np.array([_highest(plan, stage, block, course) for block in blocks]))
    return Timeline(blocks, np.concatenate(parts, axis=1), stages)


def _highest(plan: Plan, stage: PlannedStage, block: str, course: FloatArray) -> FloatArray:
    """The highest rate of the block's open groups, out of the course of all groups."""
    rows = [i for i, group in enumerate(plan.groups) if group.block == block and stage.rates[group.name]]
    return course[rows].max(axis=0) if rows else np.full(course.shape[1], np.nan)


def _label(stage: PlannedStage) -> str:
    if stage.steps is not None:
        return f"{stage.name} ({stage.steps} steps)"
    return f"{stage.name} (at most)" if stage.until else stage.name
