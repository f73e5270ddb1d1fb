"""temporary"""

from dataclasses import dataclass
from typing import Any

from stagetune.config.schema import Input, ModelSettings
from stagetune.typed import choice


@dataclass
class Settings(ModelSettings):
    name: str = "resnet"
    arch: str = choice(
        "resnet50",
        "resnet18",
        "resnet34",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "resnext101_32x8d",
    )
    stem: str = choice("imagenet", "small_images")
    pooled: list[str] | None = None

    def input(self):
        return Input()

    def build(self, image_size: int) -> Any:
        from stagetune.models.backbone import build_backbone

        return build_backbone(self.arch, stem=self.stem, pooled=self.pooled)

    def pretrained(self) -> Any:
        from stagetune.models.imagenet import torchvision_weights

        return torchvision_weights(self.arch)

    def pretrained_at(self) -> str:
        from stagetune.models.imagenet import torchvision_weights_at

        return torchvision_weights_at(self.arch)
