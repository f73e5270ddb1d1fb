"""What features are worth before anything is trained on them but the simplest: a yardstick for what is."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from stagetune.evaluation.roc import Roc

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of C, the inverse of the penalty; the first of equals is taken
PATIENCE = 2  # strengths without a gain, after which weaker penalties, the slowest to fit, are not tried
ITERATIONS = 1000
NEIGHBOURS = (1, 5, 20)  # k; the first of equals is taken
PAIRS_AT_ONCE = 4096  # so that the memory for their products stays small


@dataclass(frozen=True)
class Features:
    """Those of a part of the data: [n, d], with the label of each [n]."""

    values: FloatArray
    labels: IntArray


@dataclass(frozen=True)
class Linear:
    """A logistic regression as one linear layer over features as they are: `weight` [c, d] and `bias` [c]."""

    classes: IntArray  # [c], rising
    weight: FloatArray
    bias: FloatArray
    strength: float
    converged: bool

    def logits(self, features: Features) -> FloatArray:
        """[n, c], scikit-learn's `decision_function`; of two classes half of it, and its negative before."""
        return features.values @ self.weight.T + self.bias

    def accuracy(self, features: Features) -> float:
        return float((self.classes[self.logits(features).argmax(axis=1)] == features.labels).mean())

    def head(self, classes: int, train: Features) -> tuple[FloatArray, FloatArray]:
        """Weight [classes, d] and bias [classes] of a head with these logits.

        A class without training images has weights of 0 and the least logit of any training image, so that it is
        never first among them.
        """
        weight, bias = np.zeros((classes, self.weight.shape[1])), np.full(classes, self.logits(train).min())
        weight[self.classes], bias[self.classes] = self.weight, self.bias
        return weight, bias

    def embedding(self, dimensions: int, train: Features) -> tuple[FloatArray, FloatArray]:
        """Weight [r, d] and bias [r] of an embedding: the logits, centred over the classes and rotated.

        The rotation is to the principal directions of the training images' logits, so that of r <= `dimensions`, and
        less than there are classes, the largest are kept. Where none is cut off, distances and cosines between
        embeddings are those between centred logits.
        """
        weight, bias = self.weight - self.weight.mean(axis=0), self.bias - self.bias.mean()
        logits = train.values @ weight.T + bias
        directions = np.linalg.eigh(logits.T @ logits)[1][:, ::-1].T[: min(dimensions, len(self.classes) - 1)]
        return directions @ weight, directions @ bias


def regressions(train: Features, *, iterations: int = ITERATIONS) -> Iterator[Linear]:
    """Logistic regressions on standardised features from the strongest penalty to the weakest.

    Each is fitted in single precision and begins from the one before, which takes a third of the time.

    Args:
        train: what they are fitted to.
        iterations: of the solver, at most. It draws nothing at random.

    Raises:
        ValueError: where there is only one class to learn, or a feature is no finite number.
    """
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise ValueError("the training images are of one class")
    _check_finite(train)
    scale = StandardScaler().fit(train.values.astype(np.float64))
    given = scale.transform(train.values).astype(np.float32)
    model = LogisticRegression(max_iter=iterations, warm_start=True)
    for strength in STRENGTHS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it is said in the result
            model.set_params(C=strength).fit(given, train.labels)
        weight, bias = model.coef_.astype(np.float64), model.intercept_.astype(np.float64)
        if len(classes) == 2:
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
        weight = weight / scale.scale_
        converged = bool((model.n_iter_ < iterations).all())
        yield Linear(classes, weight, bias - weight @ scale.mean_, strength, converged)


def best_of(models: Iterable[Linear], score: Callable[[Linear], float]) -> Linear:
    """The first of those with the highest score; after `PATIENCE` of them without a gain no more are asked for."""
    found, highest, waited = None, -np.inf, 0
    for model in models:
        if (value := score(model)) > highest:
            found, highest, waited = model, value, 0
        else:
            waited += 1
        if waited == PATIENCE:
            break
    assert found is not None
    return found


def linear_probe(
    train: Features, val: Features, test: Features, *, iterations: int = ITERATIONS
) -> tuple[dict[str, Any], Linear]:
    """Fit a logistic regression to standardised features, with the penalty that is best in validation.

    Args:
        train: what it is fitted to.
        val: what chooses C.
        test: what neither has seen.
        iterations: of the solver, at most.

    Returns:
        `val/accuracy`, `test/accuracy`, `C` and `converged`; and the regression itself.

    Raises:
        ValueError: where there is only one class to learn, or a feature is no finite number.
    """
    _check_finite(val, test)
    model = best_of(regressions(train, iterations=iterations), lambda one: one.accuracy(val))
    return {
        "val/accuracy": model.accuracy(val),
        "test/accuracy": model.accuracy(test),
        "C": model.strength,
        "converged": model.converged,
    }, model


def nearest_probe(train: Features, val: Features, test: Features) -> dict[str, Any]:
    """Let the training images with the nearest features, by their cosine, vote, as many as are best in validation.

    Of classes with as many votes the lower one is taken; k is one of `NEIGHBOURS`, where there are so many images.

    Returns:
        `val/knn` and `test/knn`, the accuracies, and `k`.

    Raises:
        ValueError: where a feature is no finite number.
    """
    _check_finite(train, val, test)
    # double precision: features of a network with random weights all point much the same way
    known, asked, unseen = (part.values.astype(np.float64) for part in (train, val, test))
    model = KNeighborsClassifier(metric="cosine", algorithm="brute").fit(known, train.labels)
    ks = [k for k in NEIGHBOURS if k <= len(known)]
    scores = {k: model.set_params(n_neighbors=k).score(asked, val.labels) for k in ks}
    k = max(ks, key=lambda k: scores[k])
    score = model.set_params(n_neighbors=k).score(unseen, test.labels)
    return {"val/knn": float(scores[k]), "test/knn": float(score), "k": k}


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
    unit = directions(features)
    starts = range(0, len(first), PAIRS_AT_ONCE)
    chunks = [slice(start, start + PAIRS_AT_ONCE) for start in starts]
    apart = [1 - (unit[first[chunk]] * unit[second[chunk]]).sum(axis=1) for chunk in chunks]
    return Roc.of_pairs(np.concatenate(apart) if apart else [], is_same).auc


def directions(features: Features) -> FloatArray:
    """The features at length 1, in double precision; those of length 0 stay."""
    values = features.values.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)


def _check_finite(*parts: Features) -> None:
    if not all(np.isfinite(part.values).all() for part in parts):
        raise ValueError("some features are no finite numbers")
