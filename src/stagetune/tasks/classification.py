"""One label per image."""

from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from stagetune.data.datamodule import Batch
from stagetune.tasks.staged_task import StagedTask


class ClassificationTask(StagedTask):
    """Logits under a loss; validation and test measure loss, accuracy, top-5 and macro-F1."""

    def __init__(self, *args: Any, classes: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # outputs are gathered already: metrics that gather too would count each image once per process
        alone: Any = {"sync_on_compute": False}
        measures = MetricCollection(
            {
                "accuracy": MulticlassAccuracy(classes, average="micro", **alone),
                "top5": MulticlassAccuracy(classes, average="micro", top_k=min(5, classes), **alone),
                "f1": MulticlassF1Score(classes, average="macro", **alone),
            }
        )
        self.val_metrics = measures.clone(prefix="val/")
        self.test_metrics = measures.clone(prefix="test/")
        self.eval_loss = MeanMetric(**alone)
        self.confusion = MulticlassConfusionMatrix(classes, **alone)  # of the test; rows are the true classes

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.val_metrics.update(*self._measured(batch))

    def on_validation_epoch_end(self) -> None:
        self._log("val/", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits, target = self._measured(batch)
        self.test_metrics.update(logits, target)
        self.confusion.update(logits, target)

    def on_test_epoch_end(self) -> None:
        self._log("test/", self.test_metrics)

    def _measured(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, target = self.run(batch)
        logits = logits.float()
        self.eval_loss.update(self.loss(logits, target), weight=len(target))
        return logits, target

    def _log(self, prefix: str, metrics: MetricCollection) -> None:
        self.log_dict({f"{prefix}loss": self.eval_loss.compute(), **metrics.compute()})
        self.eval_loss.reset()
        metrics.reset()
