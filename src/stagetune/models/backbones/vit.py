"""torchvision's vision transformers."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.models.families import TorchvisionSettings, normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone


@dataclass
class Settings(TorchvisionSettings):
    """Blocks: stem (patches, class token, positions), and quarters of the layers; the last norm is in layer4."""

    name: str = "vit"
    arch: str = choice("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`."""
        from torch import nn
        from torchvision.models import get_model

        from stagetune.models.gather import covering, gather
        from stagetune.models.whole import Whole

        network = get_model(self.arch, weights=None, image_size=image_size)
        network.heads = nn.Identity()
        names = [name for name, _ in network.named_parameters()]
        layers = [f"encoder.layers.{name}." for name, _ in network.encoder.layers.named_children()]
        groups = [[name for name in names if name.startswith(layer)] for layer in layers]
        groups[-1] += ["encoder.ln.weight", "encoder.ln.bias"]
        inner = {name for group in groups for name in group}
        blocks = gather([[name for name in names if name not in inner], *groups])
        return Whole(
            network,
            {block: covering(network, members) for block, members in blocks.items()},
            image_size=image_size,
            normal=normal_of(self),
            network_key=self.key(),
        )
