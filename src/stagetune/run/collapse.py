"""Embeddings that all coincide tell nothing apart: said at once, by name."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from stagetune.errors import TrainingError
from stagetune.schedule.callback import StagedUnfreezing

LOST = 1e-3  # a spread so small beside the largest so far has collapsed
ONE_POINT = 1e-9  # and one so small always has: the differences are float32's rounding


class CollapseGuard(Callback):
    """Stops the run with `TrainingError` when a validation finds the embeddings in one point.

    The spread is the embeddings' variance as a share of their squared length. A network that begins at random has
    a small one, too, so that it counts how much of it was lost.
    """

    def __init__(self, unfreezing: StagedUnfreezing) -> None:
        self.unfreezing = unfreezing
        self._largest = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"largest": self._largest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._largest = state_dict["largest"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        spread = float(trainer.callback_metrics["val/spread"])
        self._largest = max(self._largest, spread)
        if spread < max(ONE_POINT, LOST * self._largest):
            raise TrainingError(
                f"the embeddings have collapsed into one point in stage {self.unfreezing.stage.name}, epoch "
                f"{trainer.current_epoch + 1}: val/spread is {spread:.1e}, was {self._largest:.1e}; lower the "
                "stage's lr, or use loss=contrastive, or triplets with loss.mining=semi_hard, or say "
                "task.on_collapse=go_on"
            )
