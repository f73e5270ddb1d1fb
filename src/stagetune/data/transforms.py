"""From a decoded image to the square that the model sees; normalisation is the backbone's."""

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


def prepare(image: Tensor, size: int, interpolation: str = "bilinear", resize: str = "crop") -> Tensor:
    """The deterministic part.

    Args:
        image: uint8 [3, height, width].
        size: pixels per side of the square.
        interpolation: bilinear, bicubic or nearest.
        resize: crop (the shorter side to `size`, then the centre), pad (the longer side to it, the rest filled with
            the paper's colour) or squash (both sides to it).

    Returns:
        uint8 [3, size, size].
    """
    height, width = image.shape[-2:]
    if height == width == size:
        return image
    how = v2.InterpolationMode(interpolation)
    if resize == "squash":
        return F.resize(image, [size, size], how, antialias=True)  # type: ignore[no-any-return]
    if resize == "pad":
        longer = max(height, width)
        inner = [max(1, round(side * size / longer)) for side in (height, width)]
        top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
        paper = paper_of(image).round().to(torch.uint8).expand(3, size, size).clone()
        paper[:, top : top + inner[0], left : left + inner[1]] = F.resize(image, inner, how, antialias=True)
        return paper
    return F.center_crop(F.resize(image, [size], how, antialias=True), [size, size])  # type: ignore[no-any-return]


def paper_of(image: Tensor) -> Tensor:
    """The colour that its border mostly has, float [3, 1, 1]."""
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
    return border.float().median(dim=1).values.view(-1, 1, 1)
