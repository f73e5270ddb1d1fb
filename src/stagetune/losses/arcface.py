"""ArcFace (Deng et al. 2019): identities as classes, apart by an angle."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import LossSettings
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Settings(LossSettings):
    """`loss=arcface`."""

    name: str = "arcface"
    margin: float = number(28.6, 0)
    scale: float = number(64.0, 0)

    task = "siamese"

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from stagetune.losses.shared.metric_learning import MetricLearningLoss

        return MetricLearningLoss(
            "ArcFaceLoss", num_classes=classes, embedding_size=dimensions, margin=self.margin, scale=self.scale
        )
