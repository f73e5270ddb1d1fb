"""One label per image."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from stagetune.data.datamodule import TESTED, Batch
from stagetune.data.gather import gather_rows
from stagetune.errors import TrainingError
from stagetune.evaluation.classification import balanced_accuracy
from stagetune.evaluation.confidence import Confidence, fit_confidence
from stagetune.tasks.metrics import OwnMetrics, Part
from stagetune.tasks.staged_task import StagedTask, check_finite

MEASURED = ("loss", "accuracy", "top5", "f1", "balanced_accuracy")


@dataclass(frozen=True)
class Scored:
    """All images of a part, as they were scored last."""

    scores: Tensor  # [n, classes], before softmax
    target: Tensor  # [n]
    index: Tensor  # [n], in the source


class ClassificationTask(StagedTask):
    """Logits under a loss; validation and test measure loss, accuracy, top-5, macro-F1 and balanced accuracy.

    With each checkpoint goes a temperature, and a probability below which an answer is "unknown", fitted in
    validation so that `lost` of its right answers become that. `metrics` of the user's own, by name, take
    probabilities [n, classes] and classes [n].
    """

    def __init__(
        self,
        *args: Any,
        classes: int,
        lost: float = 0.05,
        metrics: Mapping[str, Metric] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.classes, self.lost = classes, lost
        self.scored: dict[str, Scored] = {}  # by part; the test scores validation, too
        self._scored: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        each = torch.arange(classes).repeat(2)
        self.own_metrics = OwnMetrics(
            metrics or {},
            ours=MEASURED,
            example=(torch.eye(classes)[each].softmax(-1), each),
            given=f"probabilities [n, {classes}] and classes [n]",
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        scores, target = self._score("val", batch)
        self.own_metrics.update("val", scores.softmax(-1), target)

    def on_validation_epoch_end(self) -> None:
        self._measure("val")

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        part = TESTED[dataloader_idx]
        scores, target = self._score(part, batch)
        if part == "test":
            self.own_metrics.update(part, scores.softmax(-1), target)

    def on_test_epoch_end(self) -> None:
        self._measure("test")
        self._together("val")

    def confidence(self) -> Confidence:
        """What the scores of validation say of its probabilities."""
        found = self.scored["val"]
        return fit_confidence(found.scores.double().numpy(), found.target.numpy(), lost=self.lost)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if "val" in self.scored:
            replace(self.metadata, calibration=asdict(self.confidence())).put_into(checkpoint)

    def _score(self, part: Part, batch: Batch) -> tuple[Tensor, Tensor]:
        scores, target = self.run(batch)
        self._scored.setdefault(part, []).append((scores.float(), target, gather_rows(self, batch.index)))
        return scores.float(), target

    def _together(self, part: Part) -> tuple[Tensor, Tensor]:
        """Scores and classes of all images of a part since the last call."""
        scores, target, index = (torch.cat(parts) for parts in zip(*self._scored.pop(part), strict=True))
        check_finite(scores, "scores", part)  # the class that such scores would answer is the first
        self.scored[part] = Scored(scores.cpu(), target.cpu(), index.cpu())
        return scores, target

    def _cost(self, part: Part, scores: Tensor, target: Tensor) -> Tensor:
        try:
            cost: Tensor = self.loss(scores, target)
        except Exception as error:  # somebody's code
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise TrainingError(
                f"the loss cannot take all {len(target)} images of {part} at once, without gradients: {reason}; "
                "let it take as many as there are"
            ) from error
        return cost

    def _measure(self, part: Part) -> None:
        scores, target = self._together(part)
        found = self.scored[part]
        measures: dict[str, Tensor | float] = {
            # of all at once: a mean over batches is another where classes have weights
            "loss": self._cost(part, scores, target),
            "accuracy": multiclass_accuracy(scores, target, self.classes, average="micro"),
            "top5": multiclass_accuracy(scores, target, self.classes, average="micro", top_k=min(5, self.classes)),
            "f1": multiclass_f1_score(scores, target, self.classes, average="macro"),
            "balanced_accuracy": balanced_accuracy(found.target.numpy(), found.scores.argmax(-1).numpy()),
        }
        own = self.own_metrics.compute(part)
        self.log_dict({**{f"{part}/{name}": value for name, value in measures.items()}, **own})
