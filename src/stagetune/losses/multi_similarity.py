"""Multi-similarity loss (Wang et al. 2019): weighs each pair by how hard it is among its like."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import LossSettings

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Settings(LossSettings):
    """`loss=multi_similarity`."""

    name: str = "multi_similarity"

    task = "siamese"

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.metric_learning import MetricLearningLoss

        return MetricLearningLoss("MultiSimilarityLoss")
