"""Cross-entropy over the classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import LossSettings
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Settings(LossSettings):
    """`loss=cross_entropy`."""

    name: str = "cross_entropy"
    label_smoothing: float = number(0.0, 0, 0.99)

    task = "classifier"

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from torch import nn

        return nn.CrossEntropyLoss(label_smoothing=self.label_smoothing)
