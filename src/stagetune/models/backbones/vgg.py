"""torchvision's VGG networks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.schema import Config
from stagetune.models.families import TorchvisionSettings, normal_of, pooled_problems
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone


@dataclass
class Settings(TorchvisionSettings):
    """Blocks: each ends with a max-pool; they are called as a ResNet's, so that the same schedules fit."""

    name: str = "vgg"
    arch: str = choice("vgg16", "vgg11", "vgg13", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn")
    pooled: list[str] | None = None

    def problems(self, config: Config) -> Iterator[str]:
        yield from TorchvisionSettings.problems(self, config)
        yield from pooled_problems(self.pooled)

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`."""
        import torch
        from torch import nn
        from torchvision.models import get_model

        from stagetune.config.settings import BLOCKS
        from stagetune.models.layers import Layers

        features = get_model(self.arch, weights=None).features
        blocks: dict[str, list[str]] = {name: [] for name in BLOCKS}
        names = iter(blocks)
        block = next(names)
        for i, layer in enumerate(features):
            blocks[block].append(f"features.{i}")
            if isinstance(layer, nn.MaxPool2d):
                block = next(names, block)
        made = Layers(
            {"features": features}, blocks,
            pooled=self.pooled, normal=normal_of(self), image_size=image_size, network_key=self.key(),
        )  # fmt: skip
        return made.to(memory_format=torch.channels_last)
