"""figures/*.png of a finished run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA

from stagetune.data.datamodule import StagedData
from stagetune.evaluation.verification import bootstrap
from stagetune.models.distances import measure
from stagetune.report.figures import draw_confusion, draw_curves, draw_learning_rates, draw_roc
from stagetune.report.verification_figures import draw_det, draw_distances, draw_hardest, draw_map, draw_stages
from stagetune.run.recorder import Recorder
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask

RATES = np.geomspace(1e-4, 1, 25)  # false accept rates at which the curves' band is drawn
HARDEST = 8


def draw_run(
    task: StagedTask,
    data: StagedData,
    recorder: Recorder,
    reports: Mapping[str, Mapping[str, Any]],
    monitor: str,
    folder: Path,
) -> None:
    """Curves and learning rates of every run, and what the test and, of siamese runs, the stages' reports show."""
    folder.mkdir(exist_ok=True)
    stages = recorder.stage_records()
    draw_curves(recorder.rows, stages, monitor, folder / "curves.png")
    draw_learning_rates(recorder.rate_curves(), stages, folder / "learning_rates.png")
    if isinstance(task, ClassificationTask):
        counts = task.confusion.compute().cpu().numpy()
        draw_confusion(counts, data.source.classes, folder / "confusion.png")
    if isinstance(task, SiameseTask):
        draw_stages(reports, folder / "stages.png")
        _draw_verification(task, data, folder)


def _draw_verification(task: SiameseTask, data: StagedData, folder: Path) -> None:
    assert task.roc is not None
    assert task.encoded is not None
    roc, threshold = task.roc, task.threshold.item()
    embeddings, identity, index = task.encoded.embeddings, task.encoded.identity, task.encoded.index
    first, second, is_same = task.encoded.pairs
    apart = measure(embeddings[first] - embeddings[second], task.distance).double().numpy()
    rates = {f"{rate}": lambda roc, rate=rate: np.interp(rate, roc.false_accept, roc.true_accept) for rate in RATES}
    bands = bootstrap(apart, identity[first].numpy(), identity[second].numpy(), rates)
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
    draw_det(roc.false_accept, 1 - roc.true_accept, (RATES, 1 - high, 1 - low), folder / "det.png")
    draw_distances(roc.distance, roc.same, roc.different, threshold=threshold, path=folder / "distances.png")
    names = [data.source.classes[i] for i in identity.tolist()]
    if len(embeddings) > 2:
        draw_map(PCA(2).fit_transform(embeddings.numpy()), names, folder / "embeddings.png")
    order = np.argsort(apart)
    same = is_same.numpy().astype(bool)
    hardest = {
        "different, but near": [pair for pair in order if not same[pair]][:HARDEST],
        "same, but far apart": [pair for pair in order[::-1] if same[pair]][:HARDEST],
    }

    def picture(position: int) -> Any:
        return data.parts["test"].prepared(int(index[position])).permute(1, 2, 0).numpy()

    images = {
        title: [(picture(int(first[pair])), picture(int(second[pair])), float(apart[pair])) for pair in chosen]
        for title, chosen in hardest.items()
    }
    draw_hardest(images, folder / "hardest.png")
