"""Same pairs near, different pairs beyond a margin."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import PairLossSettings
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class Settings(PairLossSettings):
    """`loss=contrastive`: same pairs pay their distance, squared, different ones what they lack of `margin`, squared.

    Hadsell, Chopra, LeCun 2006, eq. 4; here same and different pairs weigh equally, however many there are.
    """

    name: str = "contrastive"
    margin: float = number(1.0, 0)

    takes_pairs = True

    def of_pairs(self, distance: "Tensor", is_same: "Tensor") -> "Tensor":
        from stagetune.losses.shared.pairs import mean_of

        push = (self.margin - distance).relu().square()
        return 0.5 * (mean_of(distance.square(), is_same) + mean_of(push, ~is_same))

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.pairs import PairLoss

        return PairLoss(self.of_pairs, self.distance)
