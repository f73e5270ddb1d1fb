"""What features are worth before anything is trained on them but the simplest: a yardstick for what is."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from stagetune.evaluation.roc import Roc

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of C, the inverse of the penalty; the first of equals is taken
ITERATIONS = 1000
PAIRS_AT_ONCE = 4096  # so that the memory for their products stays small


@dataclass(frozen=True)
class Features:
    """Those of a part of the data: [n, d], with the label of each [n]."""

    values: FloatArray
    labels: IntArray


def linear_probe(train: Features, val: Features, test: Features, *, iterations: int = ITERATIONS) -> dict[str, Any]:
    """Fit a logistic regression to standardised features, with the penalty that is best in validation.

    Args:
        train: what it is fitted to.
        val: what chooses C.
        test: what neither has seen.
        iterations: of the solver, at most. It draws nothing at random.

    Returns:
        `val/accuracy`, `test/accuracy`, `C`, `features` (how many there are) and `converged`.

    Raises:
        ValueError: where there is only one class to learn, or a feature is no finite number.
    """
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise ValueError("the training images are of one class")
    _check_finite(train, val, test)
    scale = StandardScaler().fit(train.values)
    given, asked, unseen = (scale.transform(part.values) for part in (train, val, test))
    found: dict[str, Any] = {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=iterations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is said in the result
            model.fit(given, train.labels)
        accuracy = float(model.score(asked, val.labels))
        if not found or accuracy > found["val/accuracy"]:
            found = {
                "val/accuracy": accuracy,
                "test/accuracy": float(model.score(unseen, test.labels)),
                "C": strength,
                "features": given.shape[1],
                "converged": bool((model.n_iter_ < iterations).all()),
            }
    return found


def verification_probe(features: Features, first: IntArray, second: IntArray, is_same: npt.ArrayLike) -> float:
    """The area under the ROC of pairs of images by the cosine of their features.

    Args:
        features: as they are.
        first: the position of one image of each pair.
        second: that of the other.
        is_same: whether they are of one identity.

    Returns:
        The probability that a same pair is nearer than a different one.

    Raises:
        ValueError: where a feature is no finite number.
    """
    _check_finite(features)
    length = np.linalg.norm(features.values, axis=1, keepdims=True)
    unit = features.values / np.where(length > 0, length, 1)
    starts = range(0, len(first), PAIRS_AT_ONCE)
    chunks = [slice(start, start + PAIRS_AT_ONCE) for start in starts]
    apart = [1 - (unit[first[chunk]] * unit[second[chunk]]).sum(axis=1) for chunk in chunks]
    return Roc.of_pairs(np.concatenate(apart) if apart else [], is_same).auc


def _check_finite(*parts: Features) -> None:
    if not all(np.isfinite(part.values).all() for part in parts):
        raise ValueError("some features are no finite numbers")
