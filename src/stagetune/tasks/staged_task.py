"""What the tasks share: backbone, head, loss, one optimizer over all parameters."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from stagetune.artifacts import CheckpointMetadata
from stagetune.data.datamodule import Batch
from stagetune.data.gather import gather_rows
from stagetune.data.mixing import Mixing
from stagetune.errors import TrainingError
from stagetune.models.backbone import Backbone

MakeOptimizer = Callable[[list[nn.Parameter]], Optimizer]


class StagedTask(LightningModule):
    """A backbone under a head, whose `metadata` goes into every checkpoint.

    The images of a training batch are mixed where `mixing` is given; it is encoded in `chunks` parts.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        loss: nn.Module,
        *,
        make_optimizer: MakeOptimizer,
        metadata: CheckpointMetadata | None = None,
        chunks: int = 1,
        mixing: Mixing | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.loss = loss
        self.metadata = metadata or CheckpointMetadata()
        self.batch_figures: dict[str, Tensor] = {}  # of the latest training batch; NaN where it has none
        self.chunks, self.mixing = chunks, mixing
        self._make_optimizer = make_optimizer

    def forward(self, inputs: Tensor, depth: int = 0) -> Tensor:
        """The head's output for inputs that already went through `depth` blocks."""
        output: Tensor = self.head(self.backbone(inputs, start=depth))
        return output

    def run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Outputs and targets of the batch; of several processes, of all their batches together.

        So every process has the loss of the whole, with pairs across processes, and metrics count each image once.
        """
        return gather_rows(self, self._outputs(batch)), gather_rows(self, batch.target)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        cost: Tensor = self.loss(*self.run(self.mixing(batch) if self.mixing else batch))
        return cost

    def _outputs(self, batch: Batch) -> Tensor:
        """The head's outputs; in training those of `chunks` parts, of which backward computes one at a time again.

        So one loss over a large batch takes the memory of a part (Gao et al. 2021, section 3.2: gradient cache).
        """
        if self.chunks == 1 or not self.training:
            return self(batch.inputs, batch.depth)  # type: ignore[no-any-return]
        parts = batch.inputs.tensor_split(self.chunks)
        return torch.cat([checkpoint(self, part, batch.depth, use_reentrant=False) for part in parts if len(part)])

    def configure_optimizers(self) -> Optimizer:
        # StagedUnfreezing divides them into the plan's groups
        return self._make_optimizer(list(self.parameters()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.metadata.put_into(checkpoint)


def check_finite(values: Tensor, what: str, part: str) -> None:
    """Raise `TrainingError` for what a network says of the images of a part [n, ...] and is no finite number.

    What would be measured of it are numbers all the same, and wrong ones.
    """
    if bad := int((~values.isfinite().all(dim=1)).sum()):
        raise TrainingError(
            f"the {what} of {bad} of {len(values)} images of {part} are no finite numbers; lower the stage's lr, add "
            "+trainer.gradient_clip_val=1.0, or use precision=fp32"
        )
