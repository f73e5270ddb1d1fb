"""Triplet losses with in-batch mining, from embeddings [n, d] and identities [n]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagetune.models.distances import measure


class TripletLoss(nn.Module):
    """An anchor's same image must be closer than its different image by `margin`; with `soft_margin` by ever more.

    `batch_hard`: per anchor the farthest same and the nearest different image (Hermans et al. 2017, eq. 5).
    `batch_all`: every triplet, a mean over those that cost anything (section 2 there).
    `semi_hard`: per same pair the nearest different image that is farther than it, if that still lies within
    the margin (Schroff et al. 2015, section 3.2).
    `easy_positive`: per anchor the nearest same and the nearest different image (Xuan et al. 2020).
    A batch without a valid triplet costs a differentiable 0.
    """

    def __init__(
        self,
        margin: float = 0.3,
        mining: str = "batch_hard",
        *,
        soft_margin: bool = False,
        distance: str = "euclidean",
    ) -> None:
        super().__init__()
        self.margin, self.mining, self.soft_margin, self.distance = margin, mining, soft_margin, distance
        self.active: Tensor | None = None  # the share of the latest batch's triplets that cost anything; NaN of none

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        distance = measure(embeddings[:, None] - embeddings[None, :], self.distance)
        same = identity[:, None] == identity[None, :]
        positive = same & ~torch.eye(len(identity), dtype=torch.bool, device=identity.device)
        gap, valid = MINERS[self.mining](distance, positive, ~same)
        cost = (F.softplus(gap) if self.soft_margin else F.relu(gap + self.margin)) * valid
        active = (gap + self.margin > 0) & valid
        self.active = active.sum().detach() / valid.sum()
        counted = active if self.mining == "batch_all" and not self.soft_margin else valid
        return cost.sum() / counted.sum().clamp_min(1)


def _batch_hard(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Per anchor: hardest positive minus hardest negative distance, and whether it has both."""
    return _gap((distance * positive).amax(dim=1), _nearest(distance, negative), positive, negative)


def _easy_positive(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Per anchor: easiest positive minus hardest negative distance, and whether it has both."""
    return _gap(_nearest(distance, positive), _nearest(distance, negative), positive, negative)


def _batch_all(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Per triple (a, p, n), [n, n, n]: its distance to p minus that to n, and whether it is a triplet."""
    return distance[:, :, None] - distance[:, None, :], positive[:, :, None] & negative[:, None, :]


def _semi_hard(distance: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Per same pair (a, p), [n, n]: its distance minus that of the nearest farther negative of a."""
    farther = negative[:, None, :] & (distance[:, None, :] > distance[:, :, None])
    nearest = _nearest(distance[:, None, :].expand_as(farther), farther)
    valid = positive & farther.any(dim=2)
    return (distance - nearest).where(valid, torch.zeros_like(distance)), valid


def _nearest(distance: Tensor, chosen: Tensor) -> Tensor:
    return distance.masked_fill(~chosen, torch.finfo(distance.dtype).max).amin(dim=-1)


def _gap(near: Tensor, far: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    valid = positive.any(dim=1) & negative.any(dim=1)
    return (near - far).where(valid, torch.zeros_like(near)), valid


MINERS: dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "batch_hard": _batch_hard,
    "batch_all": _batch_all,
    "semi_hard": _semi_hard,
    "easy_positive": _easy_positive,
}
