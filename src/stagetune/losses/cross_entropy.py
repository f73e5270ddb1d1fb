"""Cross-entropy over the classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.losses.shared.classes import ClassLossSettings

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Settings(ClassLossSettings):
    """`loss=cross_entropy`."""

    name: str = "cross_entropy"

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from torch import nn

        return nn.CrossEntropyLoss(self.weights(), label_smoothing=self.label_smoothing)
