"""torchvision's residual networks: ResNet, ResNeXt, Wide ResNet."""

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
    """Blocks: stem (7x7 convolution and max-pool), and the four layers as they are called there."""

    name: str = "resnet"
    arch: str = choice(
        "resnet50", "resnet18", "resnet34", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
        "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
    )  # fmt: skip
    stem: str = choice("imagenet", "small_images")
    pooled: list[str] | None = None

    def problems(self, config: Config) -> Iterator[str]:
        yield from TorchvisionSettings.problems(self, config)
        yield from pooled_problems(self.pooled)

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`.

        `stem=small_images` has the 3x3 stride-1 convolution without max-pool that is usual for pictures of about
        32 px (He et al. 2015, section 4.2).
        """
        import torch
        from torch import nn
        from torchvision.models import get_model

        from stagetune.models.layers import Layers

        # each residual branch starts at zero, for training from scratch (Goyal et al. 2017, section 5.1)
        network = get_model(self.arch, weights=None, zero_init_residual=True)
        layers = {name: layer for name, layer in network.named_children() if name not in ("avgpool", "fc")}
        blocks = {"stem": ("conv1", "bn1", "relu", "maxpool"), **{f"layer{i}": (f"layer{i}",) for i in range(1, 5)}}
        if self.stem == "small_images":
            conv = layers["conv1"] = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            del layers["maxpool"]
            blocks["stem"] = ("conv1", "bn1", "relu")
        made = Layers(
            layers, blocks, pooled=self.pooled, normal=normal_of(self), image_size=image_size, network_key=self.key()
        )
        return made.to(memory_format=torch.channels_last)
