"""The learning-rate range test: loss against a rising rate, and the rate that it proposes. Pure, no torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
SMOOTHING = 0.9  # of the exponential average; the mean of about ten steps
DIVERGED = 4.0  # times the lowest smoothed loss


@dataclass(frozen=True)
class Curve:
    """The loss of each step of a test.

    Attributes:
        rates: that of each step [steps], rising.
        losses: as they were measured [steps].
        smoothed: their exponential average [steps].
    """

    rates: FloatArray
    losses: FloatArray
    smoothed: FloatArray


def range_test(step: Callable[[float], float], *, low: float, high: float, steps: int) -> Curve:
    """Train while the rate rises exponentially from `low` to `high`, until the loss diverges.

    Smith 2017, Cyclical learning rates for training neural networks, section 3.3; the rise, the smoothing and the end
    are those of Gugger 2018, How do you find a good learning rate, as in fastai's `lr_find`.

    Args:
        step: trains one step at a rate and gives the loss before it.
        low: the first rate.
        high: the last one.
        steps: how many there are at most.

    Returns:
        The curve, up to where the smoothed loss is more than `DIVERGED` times the lowest, or the next is no number.
    """
    rates, losses, smoothed = np.geomspace(low, high, steps), [], []
    average = 0.0
    for i, rate in enumerate(rates.tolist()):
        loss = step(rate)
        if not math.isfinite(loss):
            break
        losses.append(loss)
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed.append(average / (1 - SMOOTHING ** (i + 1)))
        if smoothed[-1] > DIVERGED * min(smoothed):
            break
    return Curve(rates[: len(losses)], np.array(losses), np.array(smoothed))


def proposal(curve: Curve) -> float | None:
    """A tenth of the rate at which the smoothed loss is lowest.

    Gugger 2018: an order of magnitude before the minimum, where the loss still falls. The steepest point is not
    taken: between steps of different batches it is often where nothing is learnt yet.

    Args:
        curve: of a test.

    Returns:
        The rate; None where the loss never fell by more than twice the deviation of its first tenth, in which hardly
        anything is learnt.
    """
    first = curve.losses[: max(len(curve.losses) // 10, 2)]
    lowest = int(np.argmin(curve.smoothed))
    fell = first.mean() - curve.smoothed[lowest] > 2 * first.std()
    return float(curve.rates[lowest]) / 10 if fell else None
