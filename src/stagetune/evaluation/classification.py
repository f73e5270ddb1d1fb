"""What answers with a class are worth: against the baseline, by class, with intervals, and the worst of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stagetune.evaluation.intervals import share
from stagetune.evaluation.pairs import IntArray
from stagetune.evaluation.roc import FloatArray

LISTED = 10  # pairs of classes, and mistakes


@dataclass(frozen=True)
class Answers:
    """One answer for each of n images."""

    labels: IntArray  # [n], the class that is right
    answers: IntArray  # [n], the class that was answered
    probability: FloatArray  # [n], of the answer

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        return np.asarray(self.labels == self.answers)


def classification(
    found: Answers,
    classes: Sequence[str],
    images: Sequence[str],
    *,
    majority: int,
    units: IntArray | None = None,
    over: str = "images",
) -> dict[str, Any]:
    """Accuracy and balanced accuracy beside the baseline, each class, the pairs confused most and the worst mistakes.

    Args:
        found: the answers.
        classes: the names of all classes.
        images: what each image is called.
        majority: the class that is answered always, for the baseline: the one that most training images have.
        units: [n], what each image belongs to, such as its patient, where images of one are not independent.
        over: what the units are, in a word.

    Returns:
        `images`; `interval_over` and `units`, how many of them; `accuracy` and `balanced_accuracy` (the mean recall
        of the classes that there are images of), each with `value`, `low`, `high`; `f1` (macro, of the classes that
        there are images or answers of); `majority` with its `class` and `accuracy`; `classes` with name, images,
        answered, recall and its interval, precision and f1 (None over no images); `confused`, most frequent first,
        with label, answer, count and the share of the label's images; `mistakes`, surest first, with image, label,
        answer and probability.

    Raises:
        ValueError: where there is no image.
    """
    right = found.right
    of_class, answered, hits = (
        np.bincount(of, minlength=len(classes)) for of in (found.labels, found.answers, found.labels[right])
    )
    recall = hits / of_class.clip(1)
    weights, expected = 1 / of_class[found.labels], recall[found.labels]
    if units is not None and len(np.unique(np.stack([units, found.labels]), axis=1).T) == (of_class > 0).sum():
        expected = None  # each class is of one unit: other units would have other classes
    return {
        "images": len(right),
        "interval_over": over,
        "units": len(right) if units is None else len(np.unique(units)),
        "accuracy": asdict(share(right, units=units)),
        "balanced_accuracy": asdict(share(right, weights=weights, expected=expected, units=units)),
        "f1": _macro_f1(hits, of_class + answered),
        "majority": {"class": classes[majority], "accuracy": float((found.labels == majority).mean())},
        "classes": [
            _class(name, right, found.labels == i, int(answered[i]), units if over == "groups" else None)
            for i, name in enumerate(classes)
            if of_class[i] or answered[i]
        ],
        "confused": _confused(found, of_class, classes),
        "mistakes": [
            {
                "image": images[i],
                "label": classes[found.labels[i]],
                "answer": classes[found.answers[i]],
                "probability": float(found.probability[i]),
            }
            for i in worst(found)[:LISTED]
        ],
    }


def confusion(found: Answers, classes: int) -> IntArray:
    """How many images of each class (rows) were answered with each class (columns)."""
    cells = np.bincount(found.labels * classes + found.answers, minlength=classes**2)
    return cells.reshape(classes, classes).astype(np.int64)


def balanced_accuracy(labels: IntArray, answers: IntArray) -> float:
    """The mean recall of the classes that there are images of (scikit-learn's balanced_accuracy_score)."""
    of_class = np.bincount(labels)
    hits = np.bincount(labels, weights=labels == answers)
    return float((hits[of_class > 0] / of_class[of_class > 0]).mean())


def worst(found: Answers) -> list[int]:
    """The images that were answered wrong, those first where the model was surest; equals in their order."""
    wrong = np.flatnonzero(~found.right)
    return [int(i) for i in wrong[np.argsort(-found.probability[wrong], kind="stable")]]


def _macro_f1(hits: IntArray, mentioned: IntArray) -> float:
    used = mentioned > 0
    return float((2 * hits[used] / mentioned[used]).mean())


def _class(
    name: str,
    right: npt.NDArray[np.bool_],
    chosen: npt.NDArray[np.bool_],
    answered: int,
    units: IntArray | None,
) -> dict[str, Any]:
    images, hits = int(chosen.sum()), int(right[chosen].sum())
    interval = share(right[chosen], units=None if units is None else units[chosen]) if images else None
    return {
        "name": name,
        "images": images,
        "answered": answered,
        "recall": hits / images if images else None,
        "recall_low": interval.low if interval else None,
        "recall_high": interval.high if interval else None,
        "precision": hits / answered if answered else None,
        "f1": 2 * hits / (images + answered),
    }


def _confused(found: Answers, of_class: IntArray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Without a table of all pairs of classes, which would fill the memory with those of a large data set."""
    wrong = ~found.right
    pairs, times = np.unique(np.stack([found.labels[wrong], found.answers[wrong]]), axis=1, return_counts=True)
    return [
        {
            "label": classes[label],
            "answer": classes[answer],
            "count": int(times[i]),
            "share": float(times[i] / of_class[label]),
        }
        for i in np.argsort(-times, kind="stable")[:LISTED]
        for label, answer in [pairs[:, i]]
    ]
