"""One label per image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from stagetune.data.datamodule import Batch
from stagetune.tasks.metrics import OwnMetrics, Part
from stagetune.tasks.staged_task import StagedTask


class ClassificationTask(StagedTask):
    """Logits under a loss; validation and test measure loss, accuracy, top-5 and macro-F1.

    `metrics` of the user's own, by name, take probabilities [n, classes] and classes [n].
    """

    def __init__(self, *args: Any, classes: int, metrics: Mapping[str, Metric] | None = None, **kwargs: Any) -> None:
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
        each = torch.arange(classes).repeat(2)
        self.own_metrics = OwnMetrics(
            metrics or {},
            ours=("loss", *measures),
            example=(torch.eye(classes)[each].softmax(-1), each),
            given=f"probabilities [n, {classes}] and classes [n]",
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits, target = self._measured(batch)
        self.val_metrics.update(logits, target)
        self.own_metrics.update("val", logits.softmax(-1), target)

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        logits, target = self._measured(batch)
        self.test_metrics.update(logits, target)
        self.own_metrics.update("test", logits.softmax(-1), target)
        self.confusion.update(logits, target)

    def on_test_epoch_end(self) -> None:
        self._log("test", self.test_metrics)

    def _measured(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits, target = self.run(batch)
        logits = logits.float()
        self.eval_loss.update(self.loss(logits, target), weight=self._counts(target))
        return logits, target

    def _counts(self, target: Tensor) -> Tensor | int:
        """What a batch's loss counts in that of a part; with class weights it is a mean by those of its images."""
        weight = self.loss.weight if isinstance(self.loss, nn.CrossEntropyLoss) else None
        return len(target) if weight is None else weight[target].sum()

    def _log(self, part: Part, metrics: MetricCollection) -> None:
        loss = {f"{part}/loss": self.eval_loss.compute()}
        self.log_dict({**loss, **metrics.compute(), **self.own_metrics.compute(part)})
        self.eval_loss.reset()
        metrics.reset()
