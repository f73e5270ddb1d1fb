"""The learning rate of each block over the epochs, for a picture. Pure, no torch."""

import numpy as np
import numpy.typing as npt

from stagetune.config.schema import HEAD
from stagetune.schedule.plan import Plan

FloatArray = npt.NDArray[np.float64]


def rate_timeline(plan: Plan, points_per_epoch: int = 40) -> tuple[list[str], FloatArray]:
    """Blocks from the deepest to the head, and their rates [blocks, epochs x points]; NaN where frozen.

    A block that is open in part, or at several rates, shows its highest.
    """
    blocks = [*plan.blocks, HEAD]
    rates = np.full((len(blocks), plan.epochs * points_per_epoch), np.nan)
    for stage in plan.stages:
        factors = np.array(
            [stage.lr_factor(points_per_epoch, step) for step in range(stage.epochs * points_per_epoch)]
        )
        columns = slice(stage.start_epoch * points_per_epoch, stage.end_epoch * points_per_epoch)
        for row, block in enumerate(blocks):
            highest = max((stage.rates[group.name] for group in plan.groups if group.block == block), default=0.0)
            if highest:
                rates[row, columns] = highest * factors
    return blocks, rates
