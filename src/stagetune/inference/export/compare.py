"""What a model answers in another format, beside what the original does: pure, over the same images."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stagetune.data.datamodule import Batch
from stagetune.evaluation.calibration import Calibration, calibrate
from stagetune.evaluation.confidence import fit_confidence
from stagetune.evaluation.roc import Roc
from stagetune.inference.runtimes import Runtime
from stagetune.tasks.settings.classifier import Settings as ClassifierSettings
from stagetune.tasks.settings.siamese import Settings as SiameseSettings
from stagetune.tasks.siamese import SiameseTask

Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Answered:
    """Both models' outputs for the same images.

    Attributes:
        before: of the original, scores or embeddings [n, d].
        after: of the exported model.
        target: class or identity [n].
        index: of each image in its source [n].
        difference: the largest one of any output, relative to the largest value that the original gives there.
    """

    before: Outputs
    after: Outputs
    target: Tensor
    index: Tensor
    difference: float


@dataclass(frozen=True)
class Comparison:
    """An exported model beside its original, on the images of validation.

    Attributes:
        images: how many.
        max_difference: see `Answered`.
        agreement: share of the decisions that are the same: of classes, or of pairs called same or different.
        measure: accuracy of a classifier, auc of a siamese run.
        before: that measure of the original.
        after: of the exported model.
        calibration: fitted on the exported model's outputs.
    """

    images: int
    max_difference: float
    agreement: float
    measure: str
    before: float
    after: float
    calibration: dict[str, Any]


def answered(original: Runtime, exported: Runtime, batches: Iterable[Batch], output: str) -> Answered:
    """Let both models answer.

    Args:
        original: gives outputs by name.
        exported: gives the same.
        batches: of images, at least one.
        output: the one that decisions come from.
    """
    kept: list[tuple[Outputs, Outputs, Tensor, Tensor]] = []
    apart: dict[str, list[float]] = {}
    size: dict[str, list[float]] = {}
    for batch in batches:
        images = batch.inputs.contiguous().numpy()
        before, after = original(images), exported(images)
        for name, values in after.items():  # a torchvision network has no features beside its scores
            apart.setdefault(name, []).append(float(np.abs(before[name] - values).max()))
            size.setdefault(name, []).append(float(np.abs(before[name]).max()))
        kept.append((before[output], after[output], batch.target, batch.index))
    befores, afters, targets, indices = zip(*kept, strict=True)
    difference = float(np.max([np.max(apart[name]) / np.max(size[name]) for name in apart]))  # keeps NaN
    return Answered(
        np.concatenate(befores), np.concatenate(afters), torch.cat(targets), torch.cat(indices), difference
    )


def compare_classifier(found: Answered, task: ClassifierSettings) -> Comparison:
    """By classes; temperature and "unknown" are fitted as in the run's validation."""
    labels = found.target.numpy()
    before, after = found.before.argmax(axis=1), found.after.argmax(axis=1)
    fitted = fit_confidence(found.after.astype(np.float64), labels, lost=task.unknown)
    return Comparison(
        images=len(labels),
        max_difference=found.difference,
        agreement=float((before == after).mean()),
        measure="accuracy",
        before=float((before == labels).mean()),
        after=float((after == labels).mean()),
        calibration=asdict(fitted),
    )


def compare_siamese(
    found: Answered, task: SiameseTask, settings: SiameseSettings, calibration: Calibration
) -> Comparison:
    """By pairs, the same as the run's validation has; the threshold is fitted on them in the same way.

    Args:
        found: embeddings.
        task: which knows the pairs, and how far apart embeddings are.
        settings: say how a threshold is fitted.
        calibration: that of the original, whose threshold its decisions have.
    """
    encoded = [task.compared(torch.from_numpy(one), found.target, found.index) for one in (found.before, found.after)]
    apart = [one.distance.double().numpy() for one in encoded]
    before, after = (Roc.of_pairs(one, encoded[0].pairs[2].numpy()) for one in apart)
    fitted = calibrate(after, settings.calibrate, far=settings.far)
    return Comparison(
        images=len(found.target),
        max_difference=found.difference,
        agreement=float(((apart[0] <= calibration.threshold) == (apart[1] <= fitted.threshold)).mean()),
        measure="auc",
        before=before.auc,
        after=after.auc,
        calibration=asdict(fitted),
    )
