"""An augmentation of the user's own, held to be a pure function of (data.seed, image, view)."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stagetune.data.views import seed_of
from stagetune.errors import DataError
from stagetune.targets import build, fingerprint

TRIES = 8  # what is done to some images alone is seen by then
OWN = 1  # mixed into the seed, which would draw the numbers of our augmentation again


@dataclass(frozen=True)
class OwnTransform:
    """An augmentation of the user's own, for training images after ours.

    Attributes:
        transform: takes a uint8 image [3, size, size] and gives another of the same kind.
        name: what it is called in messages.
        fingerprint: of its settings and source; tables made with another one do not serve.
    """

    transform: Callable[[Tensor], Tensor]
    name: str
    fingerprint: str = ""

    def __call__(self, image: Tensor, *, seed: int, key: tuple[int, int]) -> Tensor:
        """A view of an image, a pure function of data.seed and `key`: the image's index in its source, and the view.

        Raises:
            DataError: for anything that is no uint8 image of the same size.
        """
        with seeded(seed_of(seed, *key, OWN)):
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
