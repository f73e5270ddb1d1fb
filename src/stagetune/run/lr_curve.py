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
    """A tenth of the lowest rate at which the smoothed loss is as low as it gets, but for noise.

    A tenth, as Gugger 2018 and fastai's `minimum`: an order of magnitude before the minimum the loss still falls.
    As low as it gets: within one standard deviation of a step's loss (the one-standard-error rule of Breiman et al.
    1984, section 3.4.3), since some networks bear rates far above the first one at which they have learnt. The
    steepest point is not taken: it is often where steps happen to differ and nothing is learnt yet.

    Args:
        curve: of a test.

    Returns:
        The rate; None where the loss never fell by more than two of these deviations.
    """
    end = int(np.argmin(curve.smoothed)) + 1
    if end < 3:
        return None
    noise = np.diff(curve.losses[:end]).std() / math.sqrt(2)  # of successive steps, so that the fall counts little
    if curve.losses[: max(end // 10, 2)].mean() - curve.smoothed[end - 1] <= 2 * noise:
        return None
    return float(curve.rates[np.argmax(curve.smoothed <= curve.smoothed[end - 1] + noise)]) / 10
