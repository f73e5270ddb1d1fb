"""What is measured of each picture in one pass: a small gray one, how light and how sharp it is, and its facts."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from stagetune.data.facts import Facts
from stagetune.data.image_files import ImageFiles
from stagetune.data.source import Source

SMALL = 32  # pixels a side of the small gray picture
STEEPEST = 99.5  # the percentile of all pixels that says how steep the strongest edges are

FloatArray = npt.NDArray[np.float32]
GrayArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Looks:
    """Of n images, in the order of their source.

    Attributes:
        facts: what is known of each file.
        small: [n, 32, 32], each squeezed into a small gray square.
        light: [n], the mean of its gray values, 0 to 255.
        sharp: [n], how steep its strongest edges are (a high percentile of the absolute Laplacian over the range of
            the gray values), at the size that the network sees.
    """

    facts: Sequence[Facts]
    small: GrayArray
    light: FloatArray
    sharp: FloatArray

    @property
    def flat(self) -> npt.NDArray[np.bool_]:
        """[n], whether all of it is of one colour."""
        return np.array([facts.is_flat for facts in self.facts], dtype=bool)

    @property
    def frames(self) -> npt.NDArray[np.int64]:
        """[n], the pictures in its file."""
        return np.array([facts.frames for facts in self.facts], dtype=np.int64)

    @property
    def sides(self) -> npt.NDArray[np.int64]:
        """[n, 2], width and height in pixels."""
        return np.array([(facts.width, facts.height) for facts in self.facts], dtype=np.int64).reshape(-1, 2)


def looks_of(source: Source, size: int, done: Callable[[], None] = lambda: None) -> Looks:
    """Decode every image once, and measure it.

    Args:
        source: of images that can be decoded.
        size: pixels a side that the network sees.
        done: is called after each image.
    """
    known = source.facts if isinstance(source, ImageFiles) else None

    def look(index: int) -> tuple[Facts, GrayArray, float, float]:
        image = picture(source, index)
        gray = image.convert("L")
        small = np.asarray(gray.resize((SMALL, SMALL), Image.Resampling.BOX))
        seen = np.asarray(gray.resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
        facts = known[index] if known else _facts(source, index, image)
        done()
        return facts, small, float(small.mean()), _sharpness(seen)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        facts, small, light, sharp = zip(*pool.map(look, range(len(source))), strict=True)
    return Looks(
        facts,
        np.stack(small),
        np.array(light, dtype=np.float32),
        np.array(sharp, dtype=np.float32),
    )


def picture(source: Source, index: int) -> Image.Image:
    """An image as Pillow has it, in RGB."""
    return Image.fromarray(source.image(index).permute(1, 2, 0).contiguous().numpy())


def _facts(source: Source, index: int, image: Image.Image) -> Facts:
    """Those of an image that is no file of its own: what its pixels say."""
    flat = all(low == high for low, high in image.getextrema())  # type: ignore[misc]
    return Facts(source.contents[index], "", image.mode, image.width, image.height, is_flat=flat)


def _sharpness(gray: FloatArray) -> float:
    """How steep its strongest edges are, beside its contrast; a picture out of focus has none that is steep."""
    laplacian = gray[1:-1, :-2] + gray[1:-1, 2:] + gray[:-2, 1:-1] + gray[2:, 1:-1] - 4 * gray[1:-1, 1:-1]
    low, high = np.percentile(gray, (1, 99))
    return float(np.percentile(np.abs(laplacian), STEEPEST) / (high - low + 1))
