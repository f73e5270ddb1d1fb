"""Normalised temperature-scaled cross-entropy (Chen et al. 2020): each same pair against all others."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import LossSettings
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Settings(LossSettings):
    """`loss=nt_xent`."""

    name: str = "nt_xent"
    temperature: float = number(0.1, 1e-4)

    task = "siamese"

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.metric_learning import MetricLearningLoss

        return MetricLearningLoss("NTXentLoss", temperature=self.temperature)
