"""What a backbone is to the rest: named blocks in forward order, run from any of them on where that is possible."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Normal = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std of each channel, of images between 0 and 1
IMAGENET: Normal = (IMAGENET_MEAN, IMAGENET_STD)


class Backbone(nn.Module):
    """Images to features, as blocks: `Layers` of a chain, or the `Whole` of a network that runs itself.

    Attributes:
        blocks: each block in forward order, with the names of the layers and bare parameters in it.
        starts: the depths that it can begin and stop at; 0 and `len(blocks)` always.
        out_features: how many features an image has.
        normal: mean and std that images are normalised by, as the weights want them.
        network_key: what tells networks apart beyond their weights and their structure.
        cannot_begin: where it cannot begin and why, in words; empty if it can begin at every block.
        said: what a person should know of how it was made, in sentences.
    """

    blocks: Mapping[str, Sequence[str]]
    starts: tuple[int, ...]
    out_features: int
    normal: Normal
    network_key: str
    cannot_begin: str
    said: Sequence[str]
    stagetune_mean: Tensor
    stagetune_std: Tensor

    def forward(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run the blocks from `start` to `stop` (exclusive).

        Args:
            inputs: uint8 images [n, 3, h, w] at start 0, else what block `start` takes.
            start: one of `starts`.
            stop: one of `starts`; by default all blocks are run.

        Returns:
            The features [n, out_features], or with `stop` what that block takes.
        """
        raise NotImplementedError

    def relearn(self, image_size: int) -> None:
        """Find out again what follows from the shapes of its layers, which are others than when it was made.

        Args:
            image_size: pixels per side.
        """
        raise NotImplementedError

    def _normalise_by(self, normal: Normal) -> None:
        """Keep mean and std where `to(device)` finds them. No network has registers of these names."""
        self.register_buffer("stagetune_mean", torch.tensor(normal[0]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("stagetune_std", torch.tensor(normal[1]).view(1, -1, 1, 1), persistent=False)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self.stagetune_mean) / self.stagetune_std
