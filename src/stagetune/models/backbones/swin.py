"""torchvision's Swin transformers, also of the second version."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.models.families import TorchvisionSettings, normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone


@dataclass
class Settings(TorchvisionSettings):
    """Blocks: stem (patches), and the four stages, each after its merging of patches; the last norm is in layer4."""

    name: str = "swin"
    arch: str = choice("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b")

    def unprunable(self) -> str:
        return "torch-pruning does not see through its windows of patches (model=timm has Swin networks that it does)"

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`."""
        from torchvision.models import get_model

        from stagetune.models.layers import Layers

        network = get_model(self.arch, weights=None)
        layers = {"features": network.features, "norm": network.norm, "permute": network.permute}
        blocks = {
            "stem": ("features.0",),
            "layer1": ("features.1",),
            "layer2": ("features.2", "features.3"),
            "layer3": ("features.4", "features.5"),
            "layer4": ("features.6", "features.7", "norm", "permute"),
        }
        return Layers(layers, blocks, normal=normal_of(self), image_size=image_size, network_key=self.key())
