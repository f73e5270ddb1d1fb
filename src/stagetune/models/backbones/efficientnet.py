"""torchvision's EfficientNet networks, also of the second version."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.models.families import TorchvisionSettings, normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone


@dataclass
class Settings(TorchvisionSettings):
    """Blocks end where the resolution does: at strides 2 (stem), 4, 8, 16 and 32."""

    name: str = "efficientnet"
    arch: str = choice(
        "efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4",
        "efficientnet_b5", "efficientnet_b6", "efficientnet_b7", "efficientnet_v2_s", "efficientnet_v2_m",
        "efficientnet_v2_l",
    )  # fmt: skip

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`."""
        import torch
        from torchvision.models import get_model

        from stagetune.models.layers import Layers

        features = get_model(self.arch, weights=None).features
        bounds = {"stem": (0, 2), "layer1": (2, 3), "layer2": (3, 4), "layer3": (4, 6), "layer4": (6, len(features))}
        blocks = {block: [f"features.{i}" for i in range(*bound)] for block, bound in bounds.items()}
        made = Layers(
            {"features": features}, blocks, normal=normal_of(self), image_size=image_size, network_key=self.key()
        )
        return made.to(memory_format=torch.channels_last)
