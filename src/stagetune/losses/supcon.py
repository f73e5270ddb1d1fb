"""Supervised contrastive loss (Khosla et al. 2020): a softmax over the batch, all images of an identity are right."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import LossSettings
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Settings(LossSettings):
    """`loss=supcon`."""

    name: str = "supcon"
    temperature: float = number(0.1, 1e-4)

    task = "siamese"

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.metric_learning import MetricLearningLoss

        return MetricLearningLoss("SupConLoss", temperature=self.temperature)
