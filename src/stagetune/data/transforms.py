"""From a decoded image to the square that the model sees; normalisation is the backbone's."""

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stagetune.data.samplers import Key

AFFINE = {
    "affine": v2.RandomAffine(12, (0.08, 0.08), (0.9, 1.1), 5, interpolation=v2.InterpolationMode.BILINEAR),
    "strong_affine": v2.RandomAffine(
        15, (0.06, 0.06), (0.8, 1.2), (-10, 10, -10, 10), interpolation=v2.InterpolationMode.BILINEAR
    ),
}


def prepare(image: Tensor, size: int) -> Tensor:
    """The deterministic part: shorter side to `size`, then the centre; uint8 [3, size, size]."""
    if image.shape[-1] != size or image.shape[-2] != size:
        image = F.center_crop(F.resize(image, [size], antialias=True), [size, size])
    return image


def paper_of(image: Tensor) -> Tensor:
    """The colour that its border mostly has, float [3, 1, 1]."""
    border = torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1)
    return border.float().median(dim=1).values.view(-1, 1, 1)


def augment(image: Tensor, kind: str, *, seed: int, key: Key) -> Tensor:
    """The random part, a pure function of (seed, epoch, position); uint8 in and out, same size."""
    if kind == "none":
        return image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_mix(seed, *key))
        changed: Tensor = _crop_flip(image) if kind == "crop_flip" else _affine(image, AFFINE[kind])
    return changed


def _affine(image: Tensor, turn: v2.RandomAffine) -> Tensor:
    # what turns in gets the paper's colour: black beside black ink would be a new stroke. Counted from
    # that colour, because torchvision's fill leaves a dark seam (it weighs the border pixels twice)
    paper = paper_of(image)
    turned: Tensor = turn(image - paper) + paper
    return turned.round().clamp(0, 255).to(torch.uint8)


def _crop_flip(image: Tensor) -> Tensor:
    cropped: Tensor = v2.RandomResizedCrop(image.shape[-2:], scale=(0.5, 1.0), antialias=True)(image)
    return v2.RandomHorizontalFlip()(cropped)  # type: ignore[no-any-return]


def _mix(*numbers: int) -> int:
    """One 63-bit seed of several numbers, far apart for near inputs."""
    mixed = 0
    for number in numbers:
        mixed = (mixed ^ number) * 0x9E3779B97F4A7C15 & (2**64 - 1)
        mixed ^= mixed >> 32
    return mixed >> 1
