"""A small network of somebody's own, in a file that imports torch alone.

Where the code of a network is a part of its identity, all that its file imports is read for each run: of a file that
imports stagetune that is the whole of it.
"""

import torch
from torch import nn


class Net(nn.Module):
    """A network of one's own: four small layers."""

    def __init__(self, width: int = 8, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain  # not a weight, and not in its repr
        block = lambda inner: nn.Sequential(nn.Conv2d(inner, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())  # noqa: E731
        self.stem, self.layer2, self.layer3, self.layer4 = block(3), block(width), block(width), block(width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layer4(self.layer3(self.layer2(self.stem(images))))
        return self.gain * maps
