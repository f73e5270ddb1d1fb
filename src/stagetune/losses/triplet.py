"""Triplet loss with in-batch mining, from embeddings [n, d] and identities [n]."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagetune.losses.pairs import pairwise_distances


class TripletLoss(nn.Module):
    """An anchor's same image must be closer than its different image by `margin`.

    `batch_hard`: per anchor the farthest same and the nearest different image (Hermans et al. 2017, eq. 5).
    `semi_hard`: per same pair the nearest different image that is farther than it, if that still lies within
    the margin (Schroff et al. 2015, section 3.2). A batch without a valid triplet costs a differentiable 0.
    """

    def __init__(self, margin: float = 0.3, mining: str = "batch_hard") -> None:
        super().__init__()
        self.margin, self.mining = margin, mining

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        distance = pairwise_distances(embeddings)
        same = identity[:, None] == identity[None, :]
        positive = same & ~torch.eye(len(identity), dtype=torch.bool, device=identity.device)
        mine = _batch_hard if self.mining == "batch_hard" else _semi_hard
        gap, valid = mine(distance, positive, ~same)
        cost = F.relu(gap + self.margin) * valid
        return cost.sum() / valid.sum().clamp_min(1)


def _batch_hard(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Per anchor: hardest positive minus hardest negative distance, and whether it has both."""
    farthest = (distance * positive).amax(dim=1)
    nearest = distance.masked_fill(~negative, torch.finfo(distance.dtype).max).amin(dim=1)
    valid = positive.any(dim=1) & negative.any(dim=1)
    return (farthest - nearest).where(valid, torch.zeros_like(farthest)), valid


def _semi_hard(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Per same pair (a, p), [n, n]: its distance minus that of the nearest farther negative of a."""
    farther = negative[:, None, :] & (distance[:, None, :] > distance[:, :, None])
    largest = torch.finfo(distance.dtype).max
    nearest = distance[:, None, :].expand_as(farther).masked_fill(~farther, largest).amin(dim=2)
    valid = positive & farther.any(dim=2)
    return (distance - nearest).where(valid, torch.zeros_like(distance)), valid
