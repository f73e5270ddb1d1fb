"""Losses over every pair of a batch, from embeddings [n, d] and identities [n]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagetune.models.distances import measure
from stagetune.models.heads import Similarity


def batch_pairs(embeddings: Tensor, identity: Tensor, distance: str = "euclidean") -> tuple[Tensor, Tensor]:
    """Distance and `is_same` (bool) of each of the n(n-1)/2 pairs of the batch."""
    first, second = torch.triu_indices(len(embeddings), len(embeddings), offset=1, device=embeddings.device)
    # index_select, because the gradient of embeddings[first] adds up in the order in which threads come
    apart = embeddings.index_select(0, first) - embeddings.index_select(0, second)
    return measure(apart, distance), identity[first] == identity[second]


class ContrastiveLoss(nn.Module):
    """Same pairs pay their squared distance, different pairs what they fall short of `margin`, squared.

    Hadsell, Chopra, LeCun 2006, eq. 4; here same and different pairs weigh equally, however many there are.
    """

    def __init__(self, margin: float = 1.0, distance: str = "euclidean") -> None:
        super().__init__()
        self.margin, self.distance = margin, distance

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        return self.of_pairs(*batch_pairs(embeddings, identity, self.distance))

    def of_pairs(self, distance: Tensor, is_same: Tensor) -> Tensor:
        pull = distance.square()
        push = F.relu(self.margin - distance).square()
        return 0.5 * (_mean(pull, is_same) + _mean(push, ~is_same))


class BCELoss(nn.Module):
    """Binary cross-entropy of `is_same` given the distance, through a learnt scale and bias."""

    def __init__(self, distance: str = "euclidean") -> None:
        super().__init__()
        self.distance = distance
        self.similarity = Similarity()

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        return self.of_pairs(*batch_pairs(embeddings, identity, self.distance))

    def of_pairs(self, distance: Tensor, is_same: Tensor) -> Tensor:
        cost = F.binary_cross_entropy_with_logits(self.similarity(distance), is_same.float(), reduction="none")
        return 0.5 * (_mean(cost, is_same) + _mean(cost, ~is_same))


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the chosen values; a differentiable 0 where none is."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
