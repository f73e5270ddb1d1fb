"""Binary cross-entropy of `is_same` given the distance, through a learnt scale and bias."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import PairLossSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class Settings(PairLossSettings):
    """`loss=bce`; here same and different pairs weigh equally, however many there are."""

    name: str = "bce"

    takes_pairs = True

    def of_pairs(self, distance: "Tensor", is_same: "Tensor", similarity: "nn.Module") -> "Tensor":
        import torch.nn.functional as F

        from stagetune.losses.shared.pairs import mean_of

        cost = F.binary_cross_entropy_with_logits(similarity(distance), is_same.float(), reduction="none")
        return 0.5 * (mean_of(cost, is_same) + mean_of(cost, ~is_same))

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.pairs import PairLoss
        from stagetune.models.heads import Similarity

        return PairLoss(self.of_pairs, self.distance, similarity=Similarity())
