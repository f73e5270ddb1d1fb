"""Images moved so that what is drawn on them lies in their middle."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stagetune.config.settings import WrapperSettings
from stagetune.data.source import Source
from stagetune.data.splits import Split

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Settings(WrapperSettings):
    """`data.centred`."""

    centred: bool = False

    needs_identities = False

    def wrap(self, source: Source, split: Split, seed: int) -> tuple[Source, Split]:
        return (Centred(source) if self.centred else source), split

    def prepare(self, image: "Tensor") -> "Tensor":
        return centred(image) if self.centred else image


class Centred:
    """The images of a source, each moved by `centred`."""

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.origin = source, source.name, source.origin
        self.classes, self.labels = source.classes, source.labels
        self.groups, self.image_groups, self.split = source.groups, source.image_groups, source.split
        self.contents = [f"{key} centred" for key in source.contents]
        self.notes = [*source.notes, "each image moved so that its ink's centre of mass is in the middle"]

    def __len__(self) -> int:
        return len(self.source)

    def image(self, index: int) -> "Tensor":
        return centred(self.source.image(index))

    def describe(self, index: int) -> str:
        return self.source.describe(index)


def centred(image: "Tensor") -> "Tensor":
    """Moved by whole pixels so that the centre of mass of what differs from the paper is in the middle.

    What is moved over the edge is lost, what comes in is paper; an image of paper alone stays as it is. Drawings are
    compared so by the modified Hausdorff distance, too (Lake et al. 2015). Uint8 [3, height, width], as the result.
    """
    import torch
    from torchvision.transforms.v2 import functional as F

    from stagetune.data.transforms import paper_of

    paper = paper_of(image)
    ink = image.float() - paper
    mass = ink.abs().sum(dim=0)
    if not mass.any():
        return image
    top, left = _offset(mass.sum(dim=1)), _offset(mass.sum(dim=0))
    moved: Tensor = F.crop(ink, top, left, *mass.shape) + paper
    return moved.round().to(torch.uint8)


def _offset(mass: "Tensor") -> int:
    """From the middle to the centre of mass, along one side."""
    place = mass.new_ones(len(mass)).cumsum(0) - (len(mass) + 1) / 2
    return math.floor(float(mass @ place / mass.sum()) + 0.5)
