"""What the best model says of each image of validation and test: predictions.csv and embeddings.npz."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stagetune.artifacts import RunDir, write_text, write_whole
from stagetune.data.datamodule import TESTED
from stagetune.data.source import IntArray, Source
from stagetune.evaluation.calibration import Calibration
from stagetune.evaluation.classification import Answers
from stagetune.evaluation.confidence import Confidence
from stagetune.evaluation.retrieval import nearest_others
from stagetune.evaluation.roc import FloatArray
from stagetune.tasks.classification import ClassificationTask, Scored
from stagetune.tasks.siamese import Encoded, SiameseTask
from stagetune.tasks.staged_task import StagedTask

COLUMNS = ("path", "split", "group", "label", "answer", "probability")
OF_PAIRS = ("path", "other", *COLUMNS[1:])
SAYS = ("different", "same")


@dataclass(frozen=True)
class Predictions:
    """The answers for one part of the data, its images in the order of their source."""

    index: IntArray  # [n], in the source
    answers: Answers
    answerable: npt.NDArray[np.bool_]  # [n], whether there is a right answer to give
    unknown: float | None  # the probability below which an answer is "unknown", from validation


def classified(scored: Scored, confidence: Confidence) -> Predictions:
    """The surest class of each image, with its probability at the temperature that validation has."""
    order = scored.index.argsort().numpy()
    probability = confidence.probabilities(scored.scores.double().numpy()[order])
    answers = Answers(scored.target.numpy()[order], probability.argmax(axis=1), probability.max(axis=1))
    return Predictions(scored.index.numpy()[order], answers, np.ones(len(order), dtype=bool), confidence.unknown)


def identified(encoded: Encoded, distance: str, calibration: Calibration) -> Predictions:
    """The identity of the nearest other image of the part, with the probability that the two are of one identity.

    It is right for as many same as different pairs. An image that is alone of its identity cannot be answered right.
    """
    order = encoded.index.argsort()
    embeddings, identity = encoded.embeddings[order], encoded.identity[order]
    place, apart, has_other = nearest_others(embeddings, identity, distance)
    answers = Answers(identity.numpy(), identity[place].numpy(), calibration.probability(apart.numpy()))
    surely = float(calibration.probability(calibration.threshold))
    return Predictions(encoded.index[order].numpy(), answers, has_other.numpy(), surely)


def predictions_of(task: StagedTask, calibration: Mapping[str, Any]) -> dict[str, Predictions]:
    """By part, of the weights that the test was made with; empty where a table gives pairs and no identities."""
    if isinstance(task, ClassificationTask):
        return {part: classified(task.scored[part], Confidence(**calibration)) for part in TESTED}
    if isinstance(task, SiameseTask) and task.pairs is None:
        return {part: identified(task.encoded[part], task.distance, Calibration(**calibration)) for part in TESTED}
    return {}


def write_predictions(
    predictions: Mapping[str, Predictions],
    task: StagedTask,
    calibration: Mapping[str, Any],
    source: Source,
    run_dir: RunDir,
) -> None:
    """predictions.csv, a row for each image of validation and test or, where a table gives pairs, for each of these.

    Siamese runs have embeddings.npz, too: the embedding of each image, beside the same columns.
    """
    images = [row for part, found in predictions.items() for row in _rows(part, found, source)]
    header: tuple[str, ...] = COLUMNS
    rows = images
    if isinstance(task, SiameseTask):
        encoded = {part: task.encoded[part] for part in TESTED}
        if task.pairs is not None:
            fitted = Calibration(**calibration)
            images = [row for part, of in encoded.items() for row in _unanswered(part, of, source)]
            rows = [row for part, of in encoded.items() for row in _pair_rows(part, of, fitted, source)]
            header = OF_PAIRS
        columns = {name: np.array(values) for name, values in zip(COLUMNS, zip(*images, strict=True), strict=True)}
        embeddings = [of.embeddings[of.index.argsort()].float().numpy() for of in encoded.values()]
        with write_whole(run_dir.embeddings) as file:
            np.savez(file, allow_pickle=False, embedding=np.concatenate(embeddings), **columns)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_text(run_dir.predictions, text.getvalue())


def _rows(part: str, found: Predictions, source: Source) -> Iterator[tuple[Any, ...]]:
    said = found.answers
    for i, label, answer, sure in zip(
        found.index.tolist(), said.labels.tolist(), said.answers.tolist(), said.probability.tolist(), strict=True
    ):
        yield *_image(part, i, source), source.classes[label], source.classes[answer], sure


def _unanswered(part: str, encoded: Encoded, source: Source) -> Iterator[tuple[Any, ...]]:
    for i in encoded.index.sort().values.tolist():
        yield *_image(part, i, source), "", "", np.nan


def _pair_rows(part: str, encoded: Encoded, fitted: Calibration, source: Source) -> Iterator[tuple[Any, ...]]:
    first, second, is_same = encoded.pairs
    apart: FloatArray = encoded.distance.double().numpy()
    for one, other, same, near, sure in zip(
        encoded.index[first].tolist(),
        encoded.index[second].tolist(),
        is_same.int().tolist(),
        (apart <= fitted.threshold).tolist(),
        fitted.probability(apart).tolist(),
        strict=True,
    ):
        path, *image = _image(part, one, source)
        yield path, source.describe(other), *image, SAYS[same], SAYS[near], sure if near else 1 - sure


def _image(part: str, index: int, source: Source) -> tuple[str, str, str]:
    """Its path, the part and its group, if it has one."""
    group = "" if source.image_groups is None else source.image_groups[index]
    return source.describe(index), part, group
