"""figures/*.png of a finished run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from stagetune.data.datamodule import StagedData
from stagetune.data.groups import group_numbers
from stagetune.evaluation.classification import confusion, worst
from stagetune.evaluation.confidence import reliability
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
) -> None:
    """Curves and learning rates of every run, and what the test and, of siamese runs, the stages' reports show."""
    folder.mkdir(exist_ok=True)
    stages = recorder.stage_records()
    draw_curves(recorder.rows, stages, monitor, folder / "curves.png")
    draw_learning_rates(recorder.rate_curves(), stages, folder / "learning_rates.png")
    if isinstance(task, ClassificationTask):
        _draw_answers(predictions["test"], data, folder)
    if isinstance(task, SiameseTask):
        draw_stages(reports, folder / "stages.png")
        _draw_verification(task, data, folder)


def _draw_answers(tested: Predictions, data: StagedData, folder: Path) -> None:
    answers, classes = tested.answers, data.source.classes
    draw_confusion(confusion(answers, len(classes)), classes, folder / "confusion.png")
    found = reliability(answers.probability, answers.right)
    band = (found.low, found.high)
    draw_reliability(found.probability, found.accuracy, band, found.count, found.ece, folder / "reliability.png")
    mistakes = [
        (
            _picture(data, int(tested.index[i])),
            data.source.describe(int(tested.index[i])),
            classes[answers.labels[i]],
            classes[answers.answers[i]],
            float(answers.probability[i]),
        )
        for i in worst(answers)[:WORST]
    ]
    if mistakes:
        draw_mistakes(mistakes, folder / "mistakes.png")


def _picture(data: StagedData, index: int) -> Any:
    """An image as the network sees it, [height, width, 3]."""
    return data.parts["test"].prepared(index).permute(1, 2, 0).numpy()


def _draw_verification(task: SiameseTask, data: StagedData, folder: Path) -> None:
    assert task.roc is not None
    roc, threshold, encoded = task.roc, task.threshold.item(), task.encoded["test"]
    embeddings, identity, index = encoded.embeddings, encoded.identity, encoded.index
    first, second, is_same = encoded.pairs
    apart = measure(embeddings[first] - embeddings[second], task.distance).double().numpy()
    rates = {f"{rate}": lambda roc, rate=rate: np.interp(rate, roc.false_accept, roc.true_accept) for rate in RATES}
    groups = group_numbers(data.source)
    over, unit = interval_unit(identity.numpy(), None if groups is None else groups[index.numpy()])
    same = is_same.numpy().astype(bool)
    bands = bootstrap(apart, unit[first], unit[second], rates, is_same=same)
    low, high = np.array([bands[f"{rate}"] for rate in RATES]).T
    draw_roc(
        roc.false_accept,
        roc.true_accept,
        band=(RATES, low, high),
        auc=roc.auc,
        at=roc.rates_at(threshold),
        threshold=threshold,
        path=folder / "roc.png",
    )
    draw_det(roc.false_accept, 1 - roc.true_accept, (RATES, 1 - high, 1 - low), over, folder / "det.png")
    draw_distances(roc.distance, roc.same, roc.different, threshold=threshold, path=folder / "distances.png")
    names = [data.source.classes[i] for i in identity.tolist()]
    if len(embeddings) > 2:
        draw_map(PCA(2).fit_transform(embeddings.numpy()), names, folder / "embeddings.png")
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
    draw_hardest(images, folder / "hardest.png")
