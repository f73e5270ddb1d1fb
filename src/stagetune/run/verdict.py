"""What the answers of the best model are worth, for result.json, the screen and the report."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from stagetune.data.datamodule import StagedData
from stagetune.data.groups import group_numbers
from stagetune.data.source import IntArray, Source
from stagetune.evaluation.classification import Answers, classification
from stagetune.evaluation.confidence import Confidence, reliability
from stagetune.evaluation.verification import interval_unit
from stagetune.report.answers import trust_words, verification_words, worth_words
from stagetune.report.result import RunResult
from stagetune.run.predictions import Predictions, classified
from stagetune.run.stage_reports import report_of
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask


def judge(
    result: RunResult, task: StagedTask, data: StagedData, predictions: Mapping[str, Predictions]
) -> list[tuple[str, str]]:
    """Put into the result what the answers of the test are worth; returns the lines of it for the screen.

    `result.calibration` is what the best checkpoint has of that.
    """
    lines: dict[str, str] = {}
    is_siamese = isinstance(task, SiameseTask)
    if isinstance(task, SiameseTask):
        threshold, groups = result.calibration["threshold"], group_numbers(data.source)
        result.verification = report_of(task, "test", threshold, groups)
        lines |= verification_words(result.verification)
    if "test" in predictions:
        result.classification = worth(predictions["test"], data, is_siamese=is_siamese)
    if result.classification:
        lines |= worth_words(result.classification, about="nearest" if is_siamese else "accuracy")
    if isinstance(task, ClassificationTask):
        result.calibration = trust(task, Confidence(**result.calibration))
        lines["trust"] = trust_words(result.calibration, result.classification["unknown"])
    return list(lines.items())


def worth(found: Predictions, data: StagedData, *, is_siamese: bool) -> dict[str, Any]:
    """What `evaluation/classification` says of a part; empty where no image of it can be answered right.

    The baseline is the class that most training images have; of a siamese run, whose identities may be others than
    those of training, that of the part itself.
    """
    asked = found.answerable
    if not asked.any():
        return {}
    source, index = data.source, found.index[asked]
    chosen = Answers(found.answers.labels[asked], found.answers.answers[asked], found.answers.probability[asked])
    known = chosen.labels if is_siamese else source.labels[data.split.train]
    over, units = _units(source, index, is_siamese=is_siamese)
    images = [source.describe(i) for i in index.tolist()]
    majority = int(np.bincount(known).argmax())
    said = classification(chosen, source.classes, images, majority=majority, units=units, over=over)
    how = "nearest" if is_siamese else "class"
    return said | {"answered_by": how, "unknown": _unknown(chosen, found.unknown)}


def _unknown(chosen: Answers, threshold: float | None) -> dict[str, Any]:
    """What share of the images is answered where answers below a probability are "unknown", and how many rightly."""
    answered = chosen.probability >= (threshold or 0.0)
    accuracy = float(chosen.right[answered].mean()) if answered.any() else None
    return {"below": threshold, "answered": float(answered.mean()), "accuracy": accuracy}


def _units(source: Source, index: IntArray, *, is_siamese: bool) -> tuple[str, IntArray | None]:
    """What images belong to that are right or wrong together."""
    groups = group_numbers(source)
    if is_siamese:
        return interval_unit(source.labels[index], None if groups is None else groups[index])
    # not groups of whole classes, such as alphabets: an unseen image of a known class has nothing of them
    return ("images", None) if groups is None or source.groups is not None else ("groups", groups[index])


def trust(task: ClassificationTask, fitted: Confidence) -> dict[str, Any]:
    """How far the probabilities of a classifier can be believed, before and after the temperature, in both parts."""
    found: dict[str, Any] = asdict(fitted)
    for part, scored in task.scored.items():
        plain, scaled = (classified(scored, one).answers for one in (Confidence(1.0, None, 0), fitted))
        found[part] = {
            "ece_before": reliability(plain.probability, plain.right).ece,
            "ece": reliability(scaled.probability, scaled.right).ece,
        }
    return found
