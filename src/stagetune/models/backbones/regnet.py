"""torchvision's RegNet networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.models.families import TorchvisionSettings, normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone


@dataclass
class Settings(TorchvisionSettings):
    """Blocks: stem, and the four blocks of the trunk."""

    name: str = "regnet"
    arch: str = choice(
        "regnet_y_400mf", "regnet_y_800mf", "regnet_y_1_6gf", "regnet_y_3_2gf", "regnet_y_8gf", "regnet_y_16gf",
        "regnet_y_32gf", "regnet_y_128gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf", "regnet_x_3_2gf",
        "regnet_x_8gf", "regnet_x_16gf", "regnet_x_32gf",
    )  # fmt: skip

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`."""
        import torch
        from torchvision.models import get_model

        from stagetune.models.layers import Layers

        device = torch.get_default_device()
        with torch.device("cpu"):  # its widths are computed in tensors, which must have values
            network = get_model(self.arch, weights=None).to(device)
        layers = {"stem": network.stem, "trunk_output": network.trunk_output}
        blocks = {"stem": ("stem",), **{f"layer{i}": (f"trunk_output.block{i}",) for i in range(1, 5)}}
        made = Layers(layers, blocks, normal=normal_of(self), image_size=image_size, network_key=self.key())
        return made.to(memory_format=torch.channels_last)
