"""The whole verification report behind each stage of a siamese run, so that the result says which stage paid."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from stagetune.evaluation.retrieval import retrieval
from stagetune.evaluation.verification import report
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.tasks.siamese import SiameseTask


class StageReports(Callback):
    """Reports of validation by the stage's name; they travel in the checkpoint."""

    def __init__(self, unfreezing: StagedUnfreezing) -> None:
        self.unfreezing = unfreezing
        self.reports: dict[str, dict[str, Any]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"reports": self.reports}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reports = state_dict["reports"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SiameseTask)
        if self.unfreezing.is_last_epoch(trainer):
            self.reports[self.unfreezing.stage.name] = report_of(pl_module, pl_module.threshold.item())


def report_of(task: SiameseTask, threshold: float) -> dict[str, Any]:
    """The report of what was encoded last; retrieval with it where identities are known."""
    assert task.encoded is not None
    embeddings, identity, given = task.encoded.embeddings, task.encoded.identity, task.encoded.is_given
    pairs = task.encoded.pairs if given else None
    found = report(embeddings, identity, threshold=threshold, distance=task.distance, pairs=pairs)
    return found if given else {**found, "retrieval": retrieval(embeddings, identity)}
