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
