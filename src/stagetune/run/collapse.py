"""Embeddings that all coincide tell nothing apart: noticed at once, and named."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from stagetune.errors import TrainingError
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage
from stagetune.schedule.progress import is_best

LOST = 1e-3  # a spread so small beside the largest so far has collapsed
ONE_POINT = 1e-9  # and one so small always has: the differences are float32's rounding


class CollapseGuard(Callback):
    """Acts when a validation finds the embeddings in one point: raises `TrainingError`, or `goes_back`.

    Going back ends the stage with its best weights by `monitor`, or those that it began with.
    The spread is the embeddings' variance as a share of their squared length. A network that begins at random has
    a small one, too, so that it counts how much of it was lost.
    """

    def __init__(
        self, unfreezing: StagedUnfreezing, monitor: str, mode: str, *, goes_back: bool, say: Callable[[str], None]
    ) -> None:
        self.unfreezing, self.monitor, self.mode, self.goes_back, self._say = (
            unfreezing,
            monitor,
            mode,
            goes_back,
            say,
        )
        self.collapsed: dict[str, int] = {}  # stages that were ended, and in which epoch
        self._largest = 0.0
        self._values: list[float] = []  # the monitored metric in each epoch of the stage
        self._best: dict[str, Tensor] = {}  # the weights to go back to

    def state_dict(self) -> dict[str, Any]:
        names = ("_largest", "collapsed", "_values", "_best")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, value in state_dict.items():
            setattr(self, name, value)

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        self._values.clear()
        self._keep(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        spread = float(trainer.callback_metrics["val/spread"])
        self._largest = max(self._largest, spread)
        if spread >= max(ONE_POINT, LOST * self._largest):
            self._values.append(float(trainer.callback_metrics[self.monitor]))
            if is_best(self._values, self.mode):
                self._keep(pl_module)
            return
        stage, epoch = self.unfreezing.stage.name, trainer.current_epoch
        found = (
            f"the embeddings have collapsed into one point in stage {stage}, epoch {epoch}: val/spread is "
            f"{spread:.1e}, was {self._largest:.1e}"
        )
        if not self.goes_back:
            raise TrainingError(
                f"{found}; lower the stage's lr, or use loss=contrastive, or triplets with loss.mining=semi_hard, "
                "or say task.on_collapse=go_back or go_on"
            )
        self._say(f"{found}; the stage ends here and goes back to its best weights")
        self.collapsed[stage] = epoch
        self.unfreezing.go_back(pl_module, self._best)
        trainer.optimizers[0].state.clear()  # what it remembers led here
        self.unfreezing.end_stage()

    def _keep(self, module: LightningModule) -> None:
        if self.goes_back:
            self._best = self.unfreezing.weights(module)
