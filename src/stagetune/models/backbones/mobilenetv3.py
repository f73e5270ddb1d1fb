"""torchvision's MobileNetV3 networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.models.families import TorchvisionSettings, normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone

ENDS = {"mobilenet_v3_large": (1, 3, 6, 12), "mobilenet_v3_small": (0, 1, 3, 8)}  # the last layer of strides 2 to 16


@dataclass
class Settings(TorchvisionSettings):
    """Blocks end where the resolution does: at strides 2 (stem), 4, 8, 16 and 32."""

    name: str = "mobilenetv3"
    arch: str = choice("mobilenet_v3_large", "mobilenet_v3_small")

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`."""
        import torch
        from torchvision.models import get_model

        from stagetune.config.settings import BLOCKS
        from stagetune.models.layers import Layers

        features = get_model(self.arch, weights=None).features
        bounds = [0, *(end + 1 for end in ENDS[self.arch]), len(features)]
        blocks = {
            block: [f"features.{i}" for i in range(low, high)]
            for block, low, high in zip(BLOCKS, bounds[:-1], bounds[1:], strict=True)
        }
        made = Layers(
            {"features": features}, blocks, normal=normal_of(self), image_size=image_size, network_key=self.key()
        )
        return made.to(memory_format=torch.channels_last)
