"""How far a classifier's probabilities can be believed: temperature, expected calibration error, "unknown"."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from stagetune.evaluation.intervals import share
from stagetune.evaluation.pairs import IntArray
from stagetune.evaluation.roc import FloatArray

BINS = 15  # as in Guo et al. 2017
PULL = 0.5  # standard deviation of the logarithm of a temperature before anything is seen
MOST_IMAGES = 5_000  # of the fit: more say no more
REACH = (-3.0, 3.0)  # of the logarithm


@dataclass(frozen=True)
class Confidence:
    """What was fitted to the scores of validation.

    Attributes:
        temperature: what scores are divided by before softmax.
        unknown: the probability of an answer below which it is "unknown"; None where no answer was right.
        images: how many it was fitted to.
    """

    temperature: float
    unknown: float | None
    images: int

    def probabilities(self, scores: FloatArray) -> FloatArray:
        """[n, classes], of scores [n, classes]."""
        return np.asarray(softmax(scores / self.temperature, axis=1), dtype=np.float64)


def fit_confidence(scores: FloatArray, labels: IntArray, *, lost: float) -> Confidence:
    """Fit the temperature, and then the threshold of "unknown".

    The temperature minimises the cross-entropy (Guo et al. 2017, section 4.2). It is pulled to 1 a little, since on a
    few images that are all told right cross-entropy alone would make every answer certain.

    Args:
        scores: before softmax [n, classes].
        labels: [n].
        lost: share of the right answers that may become "unknown".
    """
    place = np.linspace(0, len(scores) - 1, min(len(scores), MOST_IMAGES)).astype(int)
    given, wanted = scores[place], labels[place]

    def cost(logarithm: float) -> float:
        logs = log_softmax(given / np.exp(logarithm), axis=1)
        return float(-logs[np.arange(len(given)), wanted].sum() + 0.5 * (logarithm / PULL) ** 2)

    temperature = float(np.exp(minimize_scalar(cost, bounds=REACH, method="bounded").x))
    probability = softmax(scores / temperature, axis=1)
    right = probability.max(axis=1)[probability.argmax(axis=1) == labels]
    threshold = float(np.quantile(right, lost, method="lower")) if len(right) else None
    return Confidence(temperature, threshold, len(scores))


@dataclass(frozen=True)
class Reliability:
    """Answers by their probability, in bins of equal width: only those that hold any."""

    probability: FloatArray  # the mean in each bin
    accuracy: FloatArray
    low: FloatArray  # of the accuracy's 95% interval
    high: FloatArray
    count: IntArray

    @property
    def ece(self) -> float:
        """Expected calibration error: how far the two are apart, on average over answers (Guo et al. 2017, eq. 3)."""
        weights = self.count / max(self.count.sum(), 1)
        return float((weights * np.abs(self.accuracy - self.probability)).sum())


def reliability(probability: FloatArray, right: npt.ArrayLike, *, bins: int = BINS) -> Reliability:
    """How often answers of each probability [n] are right [n]; a bin has its upper edge, as in the paper."""
    place = np.clip(np.ceil(probability * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    used = count > 0
    sums = (np.bincount(place, np.asarray(of, dtype=float), bins)[used] for of in (probability, right))
    mean, accuracy = (of / count[used] for of in sums)
    hits = np.round(accuracy * count[used])
    intervals = [share(np.arange(of) < hit) for of, hit in zip(count[used].tolist(), hits, strict=True)]
    low, high = (np.array([getattr(one, end) for one in intervals]) for end in ("low", "high"))
    return Reliability(mean, accuracy, low, high, count[used])
