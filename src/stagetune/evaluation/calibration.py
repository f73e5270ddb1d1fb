"""The threshold up to which a pair is called same, fitted on one set of pairs and kept for all others."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from stagetune.evaluation.roc import FloatArray, Roc

POINTS = 1000


@dataclass(frozen=True)
class Calibration:
    """A threshold, the rates that it has on the pairs of its fit, and a probability of same by distance."""

    kind: str
    threshold: float
    far: float
    tar: float
    same: int  # pairs of the fit
    different: int
    scale: float  # probability of same, as many same as different pairs given: sigmoid(bias - scale * distance)
    bias: float

    def probability(self, distance: npt.ArrayLike) -> FloatArray:
        """That pairs so far apart are of one identity."""
        return np.asarray(expit(self.bias - self.scale * np.asarray(distance)), dtype=np.float64)


def calibrate(roc: Roc, kind: str = "accuracy", *, far: float = 1e-2) -> Calibration:
    """Fit a threshold: of best accuracy, of equal errors, or the largest at which `far` is kept.

    The probability is Platt's, a logistic regression on the distance, with same and different pairs weighing equally.
    Raises `ValueError` where there are too few different pairs for that `far`.
    """
    if kind == "far":
        if roc.tar_at(far) is None:
            raise ValueError(
                f"a FAR of {far:g} needs {round(10 / far):,} different pairs, there are {int(roc.different.sum()):,}"
            )
        threshold = roc.threshold_at(far)
    elif kind == "eer":
        threshold = roc.threshold_of_equal_errors()
    else:
        threshold = roc.threshold_of_best_accuracy()
    scale, bias = _platt(roc)
    false_accept, true_accept = roc.rates_at(threshold)
    same, different = int(roc.same.sum()), int(roc.different.sum())
    return Calibration(kind, threshold, false_accept, true_accept, same, different, scale, bias)


def _platt(roc: Roc) -> tuple[float, float]:
    if not roc.same.sum() or not roc.different.sum():
        return 0.0, 0.0
    # a thousand distances say as much as all of them
    place = np.linspace(roc.distance[0], roc.distance[-1], POINTS)
    nearest = np.searchsorted(place, roc.distance).clip(max=POINTS - 1)
    distance = np.concatenate([place, place])[:, None]
    is_same = np.repeat([1, 0], POINTS)
    weight = np.concatenate(
        [np.bincount(nearest, counts / counts.sum(), POINTS) for counts in (roc.same, roc.different)]
    )
    used = weight > 0
    # the weights sum up to 2; C is as many pairs' worth of trust in them as there are
    fitted = LogisticRegression(C=float(roc.same.sum() + roc.different.sum()) / 2)
    fitted.fit(distance[used], is_same[used], sample_weight=weight[used])
    return float(-fitted.coef_[0, 0]), float(fitted.intercept_[0])
