"""From a decoded image to the square that the model sees; normalisation is the backbone's."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from stagetune.data.samplers import Key
from stagetune.errors import DataError
from stagetune.targets import build, fingerprint

AFFINE = {
    "affine": v2.RandomAffine(12, (0.08, 0.08), (0.9, 1.1), 5, interpolation=v2.InterpolationMode.BILINEAR),
    "strong_affine": v2.RandomAffine(
        15, (0.06, 0.06), (0.8, 1.2), (-10, 10, -10, 10), interpolation=v2.InterpolationMode.BILINEAR
    ),
}
TRIES = 8  # what is done to some images alone is seen by then
OWN = 1  # mixed into the seed of somebody's transform, which would draw the numbers of `augment` again


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


@dataclass(frozen=True)
class OwnTransform:
    """An augmentation of the user's own, for training images after `augment`.

    Attributes:
        transform: takes a uint8 image [3, size, size] and gives another of the same kind.
        name: what it is called in messages.
        fingerprint: of its settings and source; tables made with another one do not serve.
    """

    transform: Callable[[Tensor], Tensor]
    name: str
    fingerprint: str = ""

    def __call__(self, image: Tensor, *, seed: int, key: Key) -> Tensor:
        """The image that an epoch sees, a pure function of (seed, epoch, position).

        Raises:
            DataError: for anything that is no uint8 image of the same size.
        """
        with seeded(_mix(seed, *key, OWN)):
            changed: Any = self.transform(image.clone())  # it may work in place
        if not isinstance(changed, Tensor) or changed.dtype != image.dtype or changed.shape != image.shape:
            expected = f"uint8 [{', '.join(map(str, image.shape))}]"
            raise DataError(f"{self.name} gives {_kind(changed)}, not an image {expected}; {_remedy(changed)}")
        return changed.as_subclass(Tensor)

    def check(self, image: Tensor, *, seed: int) -> None:
        """Try it on one image, in several of its forms.

        Raises:
            DataError: where it fails, gives no image, or does not follow from the seed.
        """
        try:
            first, again = ([self(image, seed=seed, key=(0, i)) for i in range(TRIES)] for _ in range(2))
        except DataError:
            raise
        except Exception as error:  # somebody's code
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            kind = f"uint8 tensor [{', '.join(map(str, image.shape))}]"
            raise DataError(f"{self.name} cannot take an image as {kind}: {reason}") from error
        if any(not torch.equal(*pair) for pair in zip(first, again, strict=True)):
            raise DataError(
                f"{self.name} draws random numbers of its own, so that no run could be repeated; let it take "
                "torch's, Python's or numpy's, or seed it in a function of your own with torch.initial_seed()"
            )


def own_transform(settings: Mapping[str, Any]) -> OwnTransform:
    """What `data.transform` names; raises `ConfigError` where it cannot be built."""
    name = f"data.transform={settings['_target_']}"
    return OwnTransform(build(settings)(), name, fingerprint(settings))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, random numbers of torch (on the CPU), Python and numpy follow from `seed`; they are put back after."""
    python, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed & (2**32 - 1))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numbers)


def _kind(given: Any) -> str:
    if not isinstance(given, Tensor):
        return f"{type(given).__module__}.{type(given).__name__}"
    return f"{str(given.dtype).removeprefix('torch.')} [{', '.join(map(str, given.shape))}]"


def _remedy(given: Any) -> str:
    if not isinstance(given, Tensor):
        return "end it with torchvision.transforms.v2.PILToTensor, or with torch.from_numpy and permute(2, 0, 1)"
    if given.is_floating_point():
        return "leave out ToTensor and Normalize, since scaling and normalisation are the backbone's"
    if given.dtype != torch.uint8:
        return "give uint8 values from 0 to 255; normalisation is the backbone's"
    return "keep its size and three channels; the size is data.image_size, and normalisation the backbone's"


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
