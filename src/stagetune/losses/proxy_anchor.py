"""Proxy anchor loss (Kim et al. 2020): a learnt point for each identity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import LossSettings
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Settings(LossSettings):
    """`loss=proxy_anchor`."""

    name: str = "proxy_anchor"
    margin: float = number(0.1, 0)
    scale: float = number(32.0, 0)

    task = "siamese"

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.metric_learning import MetricLearningLoss

        return MetricLearningLoss(
            "ProxyAnchorLoss", num_classes=classes, embedding_size=dimensions, margin=self.margin, alpha=self.scale
        )
