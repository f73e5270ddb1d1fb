"""A loss over a whole batch, with figures of it."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

OfBatch = Callable[[Tensor, Tensor], tuple[Tensor, Mapping[str, Tensor]]]


class BatchLoss(nn.Module):
    """What `of_batch` makes of embeddings [n, d] and identities [n]: the loss, and figures to be logged beside it."""

    def __init__(self, of_batch: OfBatch) -> None:
        super().__init__()
        self._of_batch = of_batch
        self.figures: Mapping[str, Tensor] = {}  # of the latest batch

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        cost, self.figures = self._of_batch(embeddings, identity)
        return cost
