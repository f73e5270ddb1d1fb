"""What the tasks share: backbone, head, loss, one optimizer over all parameters."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from stagetune.data.datamodule import Batch
from stagetune.models.backbone import Backbone

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]


class StagedTask(LightningModule):
    """A backbone under a head. `card` goes into every checkpoint: plain data that says how to rebuild it."""

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        loss: nn.Module,
        *,
        make_optimizer: MakeOptimizer,
        card: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.loss = loss
        self.card = card or {}
        self._make_optimizer = make_optimizer

    def forward(self, inputs: Tensor, depth: int = 0) -> Tensor:
        """The head's output for inputs that already went through `depth` blocks."""
        output: Tensor = self.head(self.backbone(inputs, start=depth))
        return output

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        cost: Tensor = self.loss(self(batch.inputs, batch.depth), batch.target)
        return cost

    def configure_optimizers(self) -> Optimizer:
        # StagedUnfreezing divides them into the plan's groups
        return self._make_optimizer(list(self.parameters()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stagetune"] = self.card
