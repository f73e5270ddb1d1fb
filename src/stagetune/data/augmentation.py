"""What is drawn at random of a training image: a pure function of (data.seed, image, view)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from stagetune.data.own_transform import OwnTransform
from stagetune.data.transforms import paper_of
from stagetune.data.views import seed_of


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in the order of the attributes.

    Attributes:
        kind: a setting of data.augment.
        own: a transform of the user's own.
        erasing: the probability that a rectangle is erased (Zhong et al. 2020).
        colour: what erased pixels become; with the mean that images are normalised by they are 0 to the network.
        seed: of the data, so that the runs of a sweep draw the same views.
    """

    kind: str = "none"
    own: OwnTransform | None = None
    erasing: float = 0.0
    colour: tuple[int, ...] = (0, 0, 0)
    seed: int = 0

    def __bool__(self) -> bool:
        return self.kind != "none" or self.own is not None or self.erasing > 0

    def __call__(self, image: Tensor, index: int, view: int) -> Tensor:
        """A view of an image.

        Args:
            image: uint8 [3, size, size], prepared.
            index: which one it is in its source.
            view: the number of the view.

        Returns:
            The same kind of image. Random states are what they were.

        Raises:
            DataError: where the user's own transform gives no such image.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_of(self.seed, index, view))  # torch's own asks for GPUs, too
            if self.kind != "none":
                image = KINDS[self.kind](image)
            if self.own is not None:
                image = self.own(image, seed=self.seed, key=(index, view))
            if self.erasing:
                image = _erasing(self.erasing, self.colour)(image)
        return image

    @property
    def key(self) -> list[Any]:
        """What decides a view of an image: equal keys draw the same."""
        erasing = [self.erasing, *self.colour] if self.erasing else []
        return [self.kind, self.own and self.own.fingerprint, erasing, self.seed]


def _affine(image: Tensor, turn: v2.RandomAffine) -> Tensor:
    # what turns in gets the paper's colour: black beside black ink would be a new stroke. Counted from
    # that colour, because torchvision's fill leaves a dark seam (it weighs the border pixels twice)
    paper = paper_of(image)
    turned: Tensor = turn(image - paper) + paper
    return turned.round().clamp(0, 255).to(torch.uint8)


def _crop_flip(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    changed: Tensor = _crop_and_flip(height, width)(image)
    return changed


def _photo(image: Tensor, policy: Callable[..., v2.Transform], times: int) -> Tensor:
    """Crop and mirror, then a policy, as the recipes for photographs have it."""
    image = _crop_flip(image)
    for _ in range(times):
        # what came before may have changed the paper; nearest, the interpolation of torchvision, fills without a seam
        image = policy(fill=paper_of(image).flatten().tolist())(image)
    return image


KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "affine": partial(
        _affine,
        turn=v2.RandomAffine(12, (0.08, 0.08), (0.9, 1.1), 5, interpolation=v2.InterpolationMode.BILINEAR),
    ),
    "strong_affine": partial(
        _affine,
        turn=v2.RandomAffine(
            15, (0.06, 0.06), (0.8, 1.2), (-10, 10, -10, 10), interpolation=v2.InterpolationMode.BILINEAR
        ),
    ),
    "crop_flip": _crop_flip,
    "randaugment": partial(_photo, policy=partial(v2.RandAugment, num_ops=1), times=2),  # Cubuk et al. 2020
    "trivialaugment": partial(_photo, policy=v2.TrivialAugmentWide, times=1),  # Mueller, Hutter 2021
}


@cache
def _crop_and_flip(height: int, width: int) -> v2.Transform:
    crop = v2.RandomResizedCrop((height, width), scale=(0.5, 1.0), antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip()])


@cache
def _erasing(probability: float, colour: tuple[int, ...]) -> v2.Transform:
    return v2.RandomErasing(probability, value=colour)
