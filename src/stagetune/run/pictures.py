"""figures/*.png of a finished run."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from stagetune.data.datamodule import StagedData
from stagetune.data.groups import group_numbers
from stagetune.evaluation.classification import confusion, worst
from stagetune.evaluation.confidence import reliability
from stagetune.evaluation.roc import FloatArray
from stagetune.evaluation.verification import bootstrap, interval_unit
from stagetune.models.distances import measure
from stagetune.report.answer_figures import draw_confusion, draw_mistakes, draw_reliability
from stagetune.report.figures import draw_curves, draw_learning_rates, draw_roc
from stagetune.report.verification_figures import draw_det, draw_distances, draw_hardest, draw_map, draw_stages
from stagetune.run.predictions import Predictions
from stagetune.run.recorder import Recorder
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask

Warned = Callable[[str], AbstractContextManager[None]]  # turns an error within into a warning of what it says
Drawn = tuple[
    StagedTask, StagedData, Recorder, Mapping[str, Mapping[str, Any]], str, Mapping[str, Predictions]
]  # what `draw_run` shows
RATES = np.geomspace(1e-4, 1, 25)  # false accept rates at which the curves' band is drawn
HARDEST = 8
WORST = 12


def draw_run(
    task: StagedTask,
    data: StagedData,
    recorder: Recorder,
    reports: Mapping[str, Mapping[str, Any]],
    monitor: str,
    predictions: Mapping[str, Predictions],
    folder: Path,
    warned: Warned,
) -> None:
    """Curves and learning rates of every run, and what the test and, of siamese runs, the stages' reports show.

    Each within `warned`, so that none that cannot be drawn takes another, or the run, with it.
    """
    stages = recorder.stage_records()
    drawn: dict[str, Callable[[Path], None]] = {
        "curves": lambda path: draw_curves(recorder.rows, stages, monitor, path),
        "learning_rates": lambda path: draw_learning_rates(recorder.rate_curves(), stages, path),
    }
    if isinstance(task, ClassificationTask):
        drawn |= _of_answers(predictions["test"], data)
    if isinstance(task, SiameseTask):
        drawn |= {"stages": lambda path: draw_stages(reports, path), **_of_verification(task, data)}
    for name, draw in drawn.items():
        path = folder / f"{name}.png"
        with warned(f"{path} is not drawn"):
            draw(path)


def _of_answers(tested: Predictions, data: StagedData) -> dict[str, Callable[[Path], None]]:
    answers, classes = tested.answers, [drawable(name) for name in data.source.classes]

    def draw_calibration(path: Path) -> None:
        found = reliability(answers.probability, answers.right)
        band = (found.low, found.high)
        draw_reliability(found.probability, found.accuracy, band, found.count, found.ece, path)

    def draw_worst(path: Path) -> None:
        mistakes = [
            (
                _picture(data, int(tested.index[i])),
                drawable(data.source.describe(int(tested.index[i]))),
                classes[answers.labels[i]],
                classes[answers.answers[i]],
                float(answers.probability[i]),
            )
            for i in worst(answers)[:WORST]
        ]
        if mistakes:
            draw_mistakes(mistakes, path)

    return {
        "confusion": lambda path: draw_confusion(confusion(answers, len(classes)), classes, path),
        "reliability": draw_calibration,
        "mistakes": draw_worst,
    }


def drawable(name: str) -> str:
    """A name as a picture can show it: bytes that are no UTF-8 are marked, and $ begins no formula."""
    return name.encode(errors="surrogateescape").decode(errors="replace").replace("$", r"\$")


def _picture(data: StagedData, index: int) -> Any:
    """An image as the network sees it, [height, width, 3]."""
    return data.parts["test"].prepared(index).permute(1, 2, 0).numpy()


def _of_verification(task: SiameseTask, data: StagedData) -> dict[str, Callable[[Path], None]]:
    assert task.roc is not None
    roc, threshold, encoded = task.roc, task.threshold.item(), task.encoded["test"]
    embeddings, identity, index = encoded.embeddings, encoded.identity, encoded.index
    first, second, is_same = encoded.pairs
    apart = measure(embeddings[first] - embeddings[second], task.distance).double().numpy()
    same = is_same.numpy().astype(bool)

    @cache
    def band() -> tuple[FloatArray, FloatArray, str]:
        rates = {
            f"{rate}": lambda roc, rate=rate: np.interp(rate, roc.false_accept, roc.true_accept) for rate in RATES
        }
        groups = group_numbers(data.source)
        over, unit = interval_unit(identity.numpy(), None if groups is None else groups[index.numpy()])
        bands = bootstrap(apart, unit[first], unit[second], rates, is_same=same)
        low, high = np.array([bands[f"{rate}"] for rate in RATES]).T
        return low, high, over

    def draw_rates(path: Path) -> None:
        low, high, _ = band()
        draw_roc(
            roc.false_accept,
            roc.true_accept,
            band=(RATES, low, high),
            auc=roc.auc,
            at=roc.rates_at(threshold),
            threshold=threshold,
            path=path,
        )

    def draw_errors(path: Path) -> None:
        low, high, over = band()
        draw_det(roc.false_accept, 1 - roc.true_accept, (RATES, 1 - high, 1 - low), over, path)

    def draw_embeddings(path: Path) -> None:
        if len(embeddings) > 2:
            names = [drawable(data.source.classes[i]) for i in identity.tolist()]
            draw_map(PCA(2).fit_transform(embeddings.numpy()), names, path)

    def draw_pairs(path: Path) -> None:
        order = np.argsort(apart)
        hardest = {
            "different, but near": [pair for pair in order if not same[pair]][:HARDEST],
            "same, but far apart": [pair for pair in order[::-1] if same[pair]][:HARDEST],
        }
        images = {
            title: [
                (
                    *(_picture(data, int(index[int(side[pair])])) for side in (first, second)),
                    float(apart[pair]),
                )
                for pair in chosen
            ]
            for title, chosen in hardest.items()
        }
        draw_hardest(images, path)

    return {
        "roc": draw_rates,
        "det": draw_errors,
        "distances": lambda path: draw_distances(
            roc.distance, roc.same, roc.different, threshold=threshold, path=path
        ),
        "embeddings": draw_embeddings,
        "hardest": draw_pairs,
    }
