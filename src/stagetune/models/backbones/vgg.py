"""temporary"""

from dataclasses import dataclass
from typing import Any

from stagetune.config.schema import Input, ModelSettings
from stagetune.typed import choice


@dataclass
class Settings(ModelSettings):
    name: str = "vgg"
    arch: str = choice("vgg16")
    pooled: list[str] | None = None

    def input(self):
        return Input()

    def build(self, image_size: int) -> Any:
        from stagetune.models.backbone import build_backbone

        return build_backbone(self.arch, pooled=self.pooled)

    def pretrained(self) -> Any:
        from stagetune.models.imagenet import torchvision_weights

        return torchvision_weights(self.arch)

    def pretrained_at(self) -> str:
        from stagetune.models.imagenet import torchvision_weights_at

        return torchvision_weights_at(self.arch)
