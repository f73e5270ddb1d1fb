"""torchvision's DenseNet networks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.models.families import TorchvisionSettings, normal_of
from stagetune.typed import choice

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone


@dataclass
class Settings(TorchvisionSettings):
    """Blocks: stem, and the four dense blocks, each after the transition to it; the last norm is in layer4."""

    name: str = "densenet"
    arch: str = choice("densenet121", "densenet161", "densenet169", "densenet201")

    def network(self, image_size: int) -> "Backbone":
        """See `TorchvisionSettings`."""
        import torch
        from torch import nn
        from torchvision.models import get_model

        from stagetune.models.layers import Layers

        features = get_model(self.arch, weights=None).features
        layers = {"features": features, "relu": nn.ReLU()}  # which is a function in torchvision's own forward
        blocks = {"stem": [f"features.{name}" for name in ("conv0", "norm0", "relu0", "pool0")]}
        for i in range(1, 5):
            before = [f"features.transition{i - 1}"] if i > 1 else []
            blocks[f"layer{i}"] = [*before, f"features.denseblock{i}"]
        blocks["layer4"] += ["features.norm5", "relu"]
        made = Layers(layers, blocks, normal=normal_of(self), image_size=image_size, network_key=self.key())
        return made.to(memory_format=torch.channels_last)
