"""From a file to the pixels that a network sees, and what is known of a file once it was decoded."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from torch import Tensor

MAX_MEGAPIXELS = 200.0  # by default an image of more is refused
REDUCED = 2.0  # a JPEG is decoded at the smallest scale that leaves its sides so many times those that are needed


@dataclass(frozen=True)
class Range:
    """The values of deep images (more than 8 bits a channel) that become 0 and 255; one for a whole data set."""

    low: float
    high: float


@dataclass(frozen=True)
class Facts:
    """What was found of an image as it was first decoded.

    Attributes:
        content: a key; equal keys are the same picture.
        format: Pillow's name of it, such as JPEG.
        mode: Pillow's name of it, such as RGB.
        width: in pixels, as it is stored.
        height: likewise.
        low: the least value of a deep image; None for one of 8 bits.
        high: the largest, likewise.
        is_flat: whether all of it is of one colour.
    """

    content: str
    format: str
    mode: str
    width: int
    height: int
    low: float | None = None
    high: float | None = None
    is_flat: bool = False


def facts_of(path: Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Facts:
    """What an image file is. Raises what Pillow raises for one that cannot be decoded."""
    return look(path, max_megapixels=max_megapixels)[0]


def look(
    path: Path, *, needed: int | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> "tuple[Facts, Tensor | None]":
    """What an image file is, and its pixels as `read_image` gives them; decoded once.

    There are none of a deep image, which needs the range of the whole data set.
    """
    with Image.open(path) as opened:
        stored = (str(opened.format), opened.mode, *opened.size)
        reduce(opened, needed)
        pixels = rgb(opened)
    return facts_from(pixels, *stored), pixels


def facts_from(pixels: "Tensor", format: str, mode: str, width: int, height: int) -> Facts:
    """What an image is that was decoded to these pixels, of which Pillow says the rest."""
    return Facts(digest(pixels), format, mode, width, height, is_flat=bool((pixels == pixels[:, :1, :1]).all()))


def reduce(opened: Image.Image, needed: int | None) -> None:
    """Let a JPEG that is far larger than `needed` be decoded at a reduced scale."""
    if needed is not None and opened.format == "JPEG":
        side = round(REDUCED * needed)
        opened.draft(None, (side, side))


def read_image(
    path: Path,
    *,
    scale: Range | None = None,
    needed: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> "Tensor":
    """The image as uint8 [3, height, width]: turned as EXIF says, any mode made RGB, alpha laid on white.

    Args:
        path: of its file.
        scale: of the data set's deep images; None where it has none.
        needed: pixels of the shorter side that are enough; a far larger JPEG is decoded at a reduced scale.
        max_megapixels: an image of more is refused.
    """
    with Image.open(path) as opened:
        reduce(opened, needed)
        return rgb(opened)


def rgb(opened: Image.Image) -> "Tensor":
    """The same of an image that is open."""
    import torch  # here: data can be described without it

    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16-bit gray (scans): PIL's own conversion would clip at 255
        deep = np.asarray(image).astype(np.int64)
        image = Image.fromarray((deep // 257).clip(0, 255).astype(np.uint8))
    elif image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        drawn = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def digest(pixels: "Tensor") -> str:
    """A key of an image, uint8 [3, height, width]: that of its pixels, however it was stored."""
    shape = np.array(pixels.shape, dtype=np.int64).tobytes()
    return hashlib.blake2b(shape + pixels.numpy().tobytes(), digest_size=16).hexdigest()
