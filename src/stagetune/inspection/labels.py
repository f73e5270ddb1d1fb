"""Which labels a probe doubts, and which classes it cannot tell apart: on plain arrays of features."""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from stagetune.evaluation.probe import PATIENCE, Features, directions, regressions
from stagetune.evaluation.roc import Roc

FOLDS = 5
LEAST_IMAGES = 3  # of a class whose labels are judged
MOST_FITTED = 300_000_000  # images x features x classes: up to some minutes on one core
MANY_IMAGES = 10  # of a class, from which the probe says whether it is told apart, rather than the cosine
COMPARED = 100  # images of a class at most that are compared with those of another
ALIKE = 0.6  # chance that one is told from the other, up to which two classes look alike; 0.5 is guessing

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Doubt:
    """A label that a probe doubts.

    Attributes:
        image: its index.
        guess: the class that the probe takes it for.
        margin: the probability of its label minus the highest of the others; the lower the surer.
    """

    image: int
    guess: int
    margin: float


@dataclass(frozen=True)
class Alike:
    """Two classes that are hard to tell apart, and the chance that an image of one is told from one of the other."""

    first: int
    second: int
    told_apart: float


@dataclass(frozen=True)
class Probed:
    """What a cross-validated logistic regression says of images that it has not seen.

    Attributes:
        images: [m], the indices of those that were judged.
        classes: [k], rising.
        labels: [m], positions in `classes`.
        probabilities: [m, k].
    """

    images: IntArray
    classes: IntArray
    labels: IntArray
    probabilities: FloatArray

    @property
    def accuracy(self) -> float:
        return float((self.probabilities.argmax(axis=1) == self.labels).mean())

    @property
    def majority(self) -> float:
        """The accuracy of the answer that is most frequent."""
        return float(np.bincount(self.labels).max() / len(self.labels))


def cross_validated(features: FloatArray, labels: IntArray, groups: IntArray | None = None) -> Probed:
    """The probabilities of a logistic regression over five folds, with the penalty of the least log loss over all.

    Args:
        features: [n, d].
        labels: [n].
        groups: [n], such as patients: the images of one are in one fold.

    Raises:
        ValueError: in a sentence, where there is nothing to judge by, or too much for the time.
    """
    counts = np.bincount(labels)
    images = np.flatnonzero(counts[labels] >= LEAST_IMAGES)
    classes, own = np.unique(labels[images], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"there are no two classes of at least {LEAST_IMAGES} images")
    if len(images) * features.shape[1] * len(classes) > MOST_FITTED:
        what = f"{len(images):,} images x {features.shape[1]:,} features x {len(classes):,} classes"
        raise ValueError(f"{what} are too many for its regression")
    values = features[images]
    fold = _folds(own, None if groups is None else groups[images])
    parts = [(Features(values[fold != i], own[fold != i]), np.flatnonzero(fold == i)) for i in range(FOLDS)]
    parts = [(known, unseen) for known, unseen in parts if len(unseen)]
    taught = np.zeros(len(images), dtype=bool)  # with groups a class may be in one fold alone
    for known, unseen in parts:
        taught[unseen] = np.isin(own[unseen], known.labels)
    if not taught.any():
        raise ValueError("each class is of one group")
    best, least, waited = None, np.inf, 0
    for models in zip(*(regressions(known) for known, _ in parts), strict=True):
        found = np.zeros((len(images), len(classes)))
        for model, (_, unseen) in zip(models, parts, strict=True):
            logits = model.logits(Features(values[unseen], own[unseen]))
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            found[unseen[:, None], model.classes] = odds / odds.sum(axis=1, keepdims=True)
        loss = float(-np.log(found[taught, own[taught]].clip(1e-12)).mean())
        best, least, waited = (found, loss, 0) if loss < least else (best, least, waited + 1)
        if waited == PATIENCE:
            break
    assert best is not None
    return Probed(images[taught], classes, own[taught], best[taught])


def doubts(probed: Probed) -> list[Doubt]:
    """The labels that are probably wrong, by confident learning (Northcutt et al. 2021), surest first.

    A class counts as likely for an image where its probability is at least the mean that the class has over the
    images with its label. A label is doubted where the most probable of the likely classes is another one, and the
    label is not the most probable class of all.
    """
    of_label = probed.probabilities[np.arange(len(probed.labels)), probed.labels]
    counts = np.bincount(probed.labels, minlength=len(probed.classes))
    sums = np.bincount(probed.labels, of_label, minlength=len(probed.classes))
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), 1.0)
    likely = np.where(probed.probabilities >= thresholds - 1e-6, probed.probabilities, -1.0)
    guess = likely.argmax(axis=1)
    others = probed.probabilities.copy()
    others[np.arange(len(others)), probed.labels] = -1.0
    margin = of_label - others.max(axis=1)
    doubted = (likely.max(axis=1) >= 0) & (guess != probed.labels) & (margin < 0)
    order = [i for i in np.argsort(margin, kind="stable").tolist() if doubted[i]]
    return [Doubt(int(probed.images[i]), int(probed.classes[guess[i]]), float(margin[i])) for i in order]


def alike(features: FloatArray, labels: IntArray, probed: Probed | None) -> list[Alike]:
    """Pairs of classes that are nearest to each other and that nothing here tells apart, the least told apart first.

    How far they are told apart is said by the probe, where both have ten images: the chance that it finds an image
    of one class more like that class than one of the other. Else by the cosine: the chance that two images of one
    class are nearer than two of both.
    """
    unit = directions(Features(features, labels))
    classes = np.flatnonzero(np.bincount(labels) >= 2)
    if len(classes) < 2:
        return []
    means = np.stack([unit[labels == one].mean(axis=0) for one in classes.tolist()])
    between = means @ means.T
    np.fill_diagonal(between, -np.inf)
    nearest = between.argmax(axis=1)
    found = []
    for i, j in enumerate(nearest.tolist()):
        if i < j and nearest[j] == i:
            first, second = int(classes[i]), int(classes[j])
            told = _told_by_probe(probed, first, second)
            told = _told_by_cosine(unit, labels, first, second) if told is None else told
            if told <= ALIKE:
                found.append(Alike(first, second, told))
    return sorted(found, key=lambda pair: pair.told_apart)


def _told_by_probe(probed: Probed | None, first: int, second: int) -> float | None:
    if probed is None or not {first, second} <= set(probed.classes.tolist()):
        return None
    a, b = np.searchsorted(probed.classes, [first, second]).tolist()
    inside = (probed.labels == a) | (probed.labels == b)
    is_first = probed.labels[inside] == a
    if min(is_first.sum(), (~is_first).sum()) < MANY_IMAGES:
        return None
    odds = np.log(probed.probabilities[inside].clip(1e-12))
    return Roc.of_pairs(odds[:, b] - odds[:, a], is_first).auc


def _told_by_cosine(unit: FloatArray, labels: IntArray, first: int, second: int) -> float:
    a, b = (unit[np.flatnonzero(labels == one)[:COMPARED]] for one in (first, second))
    within = [(side @ side.T)[np.triu_indices(len(side), 1)] for side in (a, b)]
    across = (a @ b.T).ravel()
    apart = 1 - np.concatenate([*within, across])
    return Roc.of_pairs(apart, np.arange(len(apart)) < len(apart) - len(across)).auc


def _folds(labels: IntArray, groups: IntArray | None, seed: int = 0) -> IntArray:
    """The fold of each image: each class in even shares, or, with groups, as evenly as these allow."""
    fold = np.zeros(len(labels), dtype=np.int64)
    if groups is not None:
        several = min(FOLDS, len(np.unique(groups)))
        if several < 2:
            raise ValueError("all images are of one group")
        divided = StratifiedGroupKFold(several, shuffle=True, random_state=seed).split(labels, labels, groups)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with few images
            for number, (_, unseen) in enumerate(divided):
                fold[unseen] = number
        return fold
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    fold[order] = np.arange(len(labels)) % FOLDS
    return fold
