"""How far a share of right answers may be from what another sample of images would give."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from stagetune.evaluation.pairs import IntArray
from stagetune.evaluation.roc import FloatArray

LEVEL = 0.95
NOTHING = 1e-12  # what rounding makes of a variance of 0


@dataclass(frozen=True)
class Share:
    """A share of something, with its 95% interval."""

    value: float
    low: float
    high: float


def share(
    right: npt.ArrayLike,
    *,
    weights: FloatArray | None = None,
    expected: FloatArray | None = None,
    units: IntArray | None = None,
) -> Share:
    """The weighted share of what is right, with the interval of Korn and Graubard (1998, section 2).

    That is the exact binomial one of Clopper and Pearson for as many independent images as the sample is worth: as
    many as there are where each is a unit of its own, fewer where the images of a unit (a patient, a session) are
    right or wrong together. It is never narrower than for independent images, nor wider than for units that agree
    within themselves, so that neither "all are right" nor "none is" passes for certainty.

    Args:
        right: [n], 1 or 0, of each image.
        weights: [n], what each counts; by default all the same.
        expected: [n], the share that is expected to be right of images like each; by default that of all.
        units: [n], what each image belongs to; by default a unit of its own.

    Returns:
        The share, and its interval; all of 0 to 1 where there is one unit.

    Raises:
        ValueError: where there is no image.
    """
    correct = np.asarray(right, dtype=np.float64)
    if not len(correct):
        raise ValueError("there is no image to take a share of")
    weight = np.full(len(correct), 1.0) if weights is None else weights
    weight = weight / weight.sum()
    value = float(np.clip(weight @ correct, 0, 1))
    unit = np.arange(len(correct)) if units is None else np.unique(units, return_inverse=True)[1]
    count = int(unit.max()) + 1
    if count < 2:
        return Share(value, 0.0, 1.0)
    spread = np.bincount(unit, weight * (correct - (value if expected is None else expected)))
    together = np.bincount(unit, weight)
    fewest, most = float(1 / (together @ together)), float(1 / (weight @ weight))
    variance = float(spread @ spread)
    is_known = variance > NOTHING * value * (1 - value)
    worth = min(max(value * (1 - value) / variance, fewest), most) if is_known else fewest
    few, many = (stats.t.ppf((1 + LEVEL) / 2, freedom - 1) for freedom in (count, len(correct)))
    worth *= float(many / few) ** 2  # units fewer than images are a smaller sample of variances, too
    tail = (1 - LEVEL) / 2
    low = 0.0 if value == 0 else float(stats.beta.ppf(tail, value * worth, (1 - value) * worth + 1))
    high = 1.0 if value == 1 else float(stats.beta.ppf(1 - tail, value * worth + 1, (1 - value) * worth))
    return Share(value, low, high)
