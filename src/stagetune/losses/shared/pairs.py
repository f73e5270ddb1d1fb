"""Losses over the pairs of a batch, from embeddings [n, d] and identities [n], and over pairs that a table gives."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stagetune.models.distances import measure


class PairLoss(nn.Module):
    """A mean over the n(n-1)/2 pairs of a batch.

    Args:
        of_pairs: the loss, from distances [m] and is_same [m] (bool), and from what is learnt.
        distance: how far two embeddings are apart, see `measure`.
        learnt: modules that are trained with the head, by their names.
    """

    def __init__(self, of_pairs: Callable[..., Tensor], distance: str = "euclidean", **learnt: nn.Module) -> None:
        super().__init__()
        self.distance, self._of_pairs = distance, of_pairs
        for name, module in learnt.items():
            self.add_module(name, module)

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        return self.of_pairs(*batch_pairs(embeddings, identity, self.distance))

    def of_pairs(self, distance: Tensor, is_same: Tensor) -> Tensor:
        return self._of_pairs(distance, is_same, **dict(self.named_children()))


def batch_pairs(embeddings: Tensor, identity: Tensor, distance: str = "euclidean") -> tuple[Tensor, Tensor]:
    """Distance and `is_same` (bool) of each of the n(n-1)/2 pairs of the batch."""
    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1, device=embeddings.device)
    # index_select, because the gradient of embeddings[first] adds up in the order in which threads come
    apart = embeddings.index_select(0, first) - embeddings.index_select(0, second)
    return measure(apart, distance), identity[first] == identity[second]


def mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values; a differentiable 0 where none is."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
