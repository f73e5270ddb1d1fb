"""figures/*.png of a finished run."""

from pathlib import Path

import numpy as np

from stagetune.data.datamodule import StagedData
from stagetune.report.figures import draw_confusion, draw_curves, draw_learning_rates, draw_roc
from stagetune.run.recorder import Recorder
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask


def draw_run(task: StagedTask, data: StagedData, recorder: Recorder, monitor: str, folder: Path) -> None:
    """Curves and learning rates of every run; of the test a confusion matrix, or the ROC with the threshold."""
    folder.mkdir(exist_ok=True)
    stages = recorder.stage_records()
    draw_curves(recorder.rows, stages, monitor, folder / "curves.png")
    draw_learning_rates(recorder.rate_curves(), stages, folder / "learning_rates.png")
    if isinstance(task, ClassificationTask):
        counts = task.confusion.compute().cpu().numpy()
        draw_confusion(counts, data.source.classes, folder / "confusion.png")
    if isinstance(task, SiameseTask) and task.verification is not None:
        measured = task.verification
        draw_roc(
            np.asarray(measured.false_accept_rate),
            np.asarray(measured.true_accept_rate),
            auc=measured.auc,
            at=measured.rates_at(task.threshold.item()),
            threshold=task.threshold.item(),
            path=folder / "roc.png",
        )
