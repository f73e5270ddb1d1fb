"""Focal loss (Lin et al. 2017): images that are told right already count little."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.losses.shared.classes import ClassLossSettings
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Settings(ClassLossSettings):
    """`loss=focal`: cross-entropy times (1 - p) ** gamma, for p the probability of the class.

    Lin et al. 2017, section 3.2, equation 5, over a softmax; `class_weights` are its alpha.
    """

    name: str = "focal"
    gamma: float = number(2.0, 0)

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.focal import FocalLoss

        return FocalLoss(self.weights(), label_smoothing=self.label_smoothing, gamma=self.gamma)
