"""torchvision's ConvNeXt networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.models.families import TorchvisionSettings, normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone


@dataclass
class Settings(TorchvisionSettings):
    """Blocks: stem (patches), and the four stages, each after its downsampling; the last norm is in layer4."""

    name: str = "convnext"
    arch: str = choice("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`."""
        import torch
        from torch import nn
        from torchvision.models import get_model

        from stagetune.models.layers import Layers

        network = get_model(self.arch, weights=None)
        layers = {"features": network.features, "avgpool": network.avgpool}
        layers["classifier"] = nn.Sequential(network.classifier[0])  # it normalises what was averaged
        blocks = {
            "stem": ("features.0",),
            "layer1": ("features.1",),
            "layer2": ("features.2", "features.3"),
            "layer3": ("features.4", "features.5"),
            "layer4": ("features.6", "features.7", "avgpool", "classifier.0"),
        }
        made = Layers(layers, blocks, normal=normal_of(self), image_size=image_size, network_key=self.key())
        return made.to(memory_format=torch.channels_last)
