"""The whole verification report after each stage of a siamese run, so that the result says which stage paid."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from stagetune.data.source import IntArray
from stagetune.evaluation.retrieval import retrieval
from stagetune.evaluation.verification import accuracy_over_folds, report
from stagetune.models.distances import measure
from stagetune.schedule.plan import PlannedStage
from stagetune.tasks.siamese import SiameseTask


class StageReports(Callback):
    """Reports of validation by the stage's name; they travel in the checkpoint.

    Args:
        groups: of each image of the data, where they are known.
    """

    def __init__(self, groups: IntArray | None) -> None:
        self._groups = groups
        self.reports: dict[str, dict[str, Any]] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"reports": self.reports}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reports = state_dict["reports"]

    def on_stage_end(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        assert isinstance(pl_module, SiameseTask)
        if "val" in pl_module.encoded:  # as it is not where a run goes on after a stage that a new schedule ends
            self.reports[stage.name] = report_of(pl_module, "val", pl_module.threshold.item(), self._groups)


def report_of(task: SiameseTask, part: str, threshold: float, groups: IntArray | None) -> dict[str, Any]:
    """The report of a part as it was encoded last, of data with `groups`; retrieval where identities are known."""
    encoded = task.encoded[part]
    embeddings, identity, fold = encoded.embeddings, encoded.identity, encoded.fold
    settings: dict[str, Any] = {"threshold": threshold, "distance": task.distance}
    settings["groups"] = None if groups is None else groups[encoded.index.numpy()]
    if fold is None:
        near = retrieval(embeddings, identity, distance=task.distance)
        return {**report(embeddings, identity, **settings), "retrieval": near}
    found = report(embeddings, identity, pairs=encoded.pairs, **settings)
    if int(fold.min()) >= 0 and len(set(fold.tolist())) > 1:
        first, second, is_same = encoded.pairs
        apart = measure(embeddings[first] - embeddings[second], task.distance).double().numpy()
        found["folds"] = accuracy_over_folds(apart, is_same.numpy(), fold.numpy())
    return found
