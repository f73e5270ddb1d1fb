"""Triplet losses with in-batch mining, from embeddings [n, d] and identities [n]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import PairLossSettings
from stagetune.typed import choice, number

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class Settings(PairLossSettings):
    """`loss=triplet`: an anchor's same image must be closer than its different image by `margin`.

    With `soft_margin` by ever more. `mining` says which triplets count:
    `batch_hard`: per anchor the farthest same and the nearest different image (Hermans et al. 2017, eq. 5).
    `batch_all`: every triplet, a mean over those that cost anything (section 2 there).
    `semi_hard`: per same pair the nearest different image that is farther than it, if that still lies within
    the margin (Schroff et al. 2015, section 3.2).
    `easy_positive`: per anchor the nearest same and the nearest different image (Xuan et al. 2020).
    A batch without a valid triplet costs a differentiable 0.
    """

    name: str = "triplet"
    margin: float = number(0.3, 0)
    mining: str = choice("batch_hard", "batch_all", "semi_hard", "easy_positive")
    soft_margin: bool = False

    def of_batch(self, embeddings: "Tensor", identity: "Tensor") -> "tuple[Tensor, dict[str, Tensor]]":
        """The loss, and the share of triplets that cost anything (NaN of none)."""
        from stagetune.models.distances import measure

        distance = measure(embeddings[:, None] - embeddings[None, :], self.distance)
        same = identity[:, None] == identity[None, :]
        positive = same.triu(1) | same.tril(-1)
        gap, valid = MINERS[self.mining](distance, positive, ~same)
        beyond = gap + self.margin
        # softplus, as logaddexp: log(1 + exp(gap))
        cost = (gap.logaddexp(gap.new_zeros(())) if self.soft_margin else beyond.relu()) * valid
        active = (beyond > 0) & valid
        counted = active if self.mining == "batch_all" and not self.soft_margin else valid
        return cost.sum() / counted.sum().clamp_min(1), {"active_triplets": active.sum().detach() / valid.sum()}

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.batches import BatchLoss

        return BatchLoss(self.of_batch)


def _batch_hard(distance: "Tensor", positive: "Tensor", negative: "Tensor") -> "tuple[Tensor, Tensor]":
    """Per anchor: hardest positive minus hardest negative distance, and whether it has both."""
    return _gap((distance * positive).amax(dim=1), _nearest(distance, negative), positive, negative)


def _easy_positive(distance: "Tensor", positive: "Tensor", negative: "Tensor") -> "tuple[Tensor, Tensor]":
    """Per anchor: easiest positive minus hardest negative distance, and whether it has both."""
    return _gap(_nearest(distance, positive), _nearest(distance, negative), positive, negative)


def _batch_all(distance: "Tensor", positive: "Tensor", negative: "Tensor") -> "tuple[Tensor, Tensor]":
    """Per triple (a, p, n), [n, n, n]: its distance to p minus that to n, and whether it is a triplet."""
    return distance[:, :, None] - distance[:, None, :], positive[:, :, None] & negative[:, None, :]


def _semi_hard(distance: "Tensor", positive: "Tensor", negative: "Tensor") -> "tuple[Tensor, Tensor]":
    """Per same pair (a, p), [n, n]: its distance minus that of the nearest farther negative of a."""
    farther = negative[:, None, :] & (distance[:, None, :] > distance[:, :, None])
    nearest = _nearest(distance[:, None, :].expand_as(farther), farther)
    valid = positive & farther.any(dim=2)
    return (distance - nearest).where(valid, distance.new_zeros(())), valid


def _nearest(distance: "Tensor", chosen: "Tensor") -> "Tensor":
    import torch

    return distance.masked_fill(~chosen, torch.finfo(distance.dtype).max).amin(dim=-1)


def _gap(near: "Tensor", far: "Tensor", positive: "Tensor", negative: "Tensor") -> "tuple[Tensor, Tensor]":
    valid = positive.any(dim=1) & negative.any(dim=1)
    return (near - far).where(valid, near.new_zeros(())), valid


MINERS: "dict[str, Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]]" = {
    "batch_hard": _batch_hard,
    "batch_all": _batch_all,
    "semi_hard": _semi_hard,
    "easy_positive": _easy_positive,
}
