"""From a file to the pixels that a network sees, and what is known of a file once it was decoded."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image

from stagetune.config.settings import MAX_MEGAPIXELS
from stagetune.data import jpeg
from stagetune.data.deep import Array, Deep, deep_of
from stagetune.data.facts import Facts, Range
from stagetune.data.formats import open_image, open_regular, reason
from stagetune.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

_giants = Lock()  # images beyond Pillow's own limit are decoded one at a time


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
        scale: of the data set's deep images; None where it has none: a deep one has that of its own values.
        needed: pixels per side of what it will be resized to; a far larger JPEG is decoded at a reduced scale.
        max_megapixels: an image of more is refused.

    Raises:
        DataError: with the reason, for one that cannot be read.
    """
    with _decoding(path, max_megapixels) as (image, file):
        found = _decoded(image, file, needed)
        return _tensor(found.scaled(scale) if isinstance(found, Deep) else found)


def look(
    path: Path, *, needed: int | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> "tuple[Facts, Tensor | None]":
    """What an image file is, and its pixels as `read_image` gives them, decoded once.

    The pixels are None of a deep image, since the range of its data set is not yet known.
    """
    with _decoding(path, max_megapixels) as (image, file):
        return _looked(image, file, needed)


def look_at(image: Image.Image) -> "tuple[Facts, Tensor | None]":
    """The same of an image that is open, as a library gives it."""
    return _looked(image, None, None)


def facts_from(
    pixels: "Tensor", format: str, mode: str, width: int, height: int, *, content: str | None = None
) -> Facts:
    """What an image of 8 bits is that was decoded to these pixels; `content` is that of them, or another key."""
    is_flat = bool((pixels == pixels[:, :1, :1]).all())
    return Facts(content or digest(pixels), format, mode, width, height, is_flat=is_flat)


def rgb(opened: Image.Image, scale: Range | None = None) -> "Tensor":
    """The same of an image that is open."""
    values = _values(opened)
    return _tensor(values.scaled(scale) if isinstance(values, Deep) else values)


def digest(pixels: "Tensor") -> str:
    """A key of an image, uint8 [3, height, width]: that of its pixels, however it was stored."""
    shape = np.array(pixels.shape, dtype=np.int64).tobytes()
    return hashlib.blake2b(shape + pixels.numpy().tobytes(), digest_size=16).hexdigest()


@contextmanager
def _decoding(path: Path, max_megapixels: float) -> Iterator[tuple[Image.Image, IO[bytes]]]:
    """The image of a file, not yet decoded, and the file; whatever goes wrong with it is a `DataError`."""
    try:
        with open_regular(path) as file:
            image = open_image(file)
            _check(image, max_megapixels)
            with _allowed(image):
                yield image, file
                _check(image, max_megapixels)  # an icon may be larger than its header says
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        raise DataError(reason(error)) from error


def _check(image: Image.Image, max_megapixels: float) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        raise DataError(
            f"has {image.width} x {image.height} pixels, {megapixels:.4g} million, above "
            f"data.max_megapixels={max_megapixels:g}"
        )


@contextmanager
def _allowed(image: Image.Image) -> Iterator[None]:
    """Within, Pillow decodes an image of that size, whatever its own limit, which is one for the whole process."""
    before = Image.MAX_IMAGE_PIXELS
    if before is None or image.width * image.height <= before:
        yield
        return
    with _giants:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, image.width * image.height
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _looked(image: Image.Image, file: IO[bytes] | None, needed: int | None) -> "tuple[Facts, Tensor | None]":
    # a large JPEG, and a TIFF that is turned, have another size once they are decoded
    stored = (str(image.format), image.mode, image.width, image.height)
    large_file = file if jpeg.is_large(image) else None
    found = _decoded(image, file, needed)
    pixels = None
    if isinstance(found, Deep):
        facts = _facts_of_deep(found, stored)
    else:
        pixels = _tensor(found)
        content = jpeg.compressed_key(large_file, _orientation(image)) if large_file else None
        facts = facts_from(pixels, *stored, content=content)
    return replace(facts, frames=_frames(image)), pixels


def _decoded(image: Image.Image, file: IO[bytes] | None, needed: int | None) -> Array | Deep:
    """The values of an image that was just opened, from a file where it is one."""
    if needed is not None and jpeg.is_large(image):
        jpeg.reduce(image, needed)
    return _values(image, None if file is None else lambda: open_image(file))


def _values(image: Image.Image, again: Callable[[], Image.Image] | None = None) -> Array | Deep:
    """Those of a deep image, or uint8 [height, width, 3]."""
    deep = deep_of(image, again)
    if deep is None:
        colours = np.array(_on_white(image))
        return turned(colours, _orientation(image))
    orientation = _orientation(image)
    opacity = None if deep.opacity is None else turned(deep.opacity, orientation)
    return replace(deep, values=turned(deep.values, orientation), opacity=opacity)


def _on_white(image: Image.Image) -> Image.Image:
    """The image in RGB, what shines through it being white."""
    if image.mode in ("La", "RGBa"):  # multiplied by alpha
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        drawn = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """As EXIF numbers it, 1 for upright; also where EXIF is damaged, which many programs leave behind."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


def turned(values: Array, orientation: int) -> Array:
    """[height, width, ...] as EXIF's orientation wants it shown."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _frames(image: Image.Image) -> int:
    """How many frames or pages it has; of a Photoshop file, whose layers Pillow calls so, one."""
    try:
        return 1 if image.format == "PSD" else int(getattr(image, "n_frames", 1))
    except Exception:  # the first one is whole, and a later one is not
        return 1


def _facts_of_deep(deep: Deep, stored: tuple[str, str, int, int]) -> Facts:
    measured = deep.measured()
    name, mode, width, height = stored
    key = hashlib.blake2b(f"deep {deep.values.shape} {deep.is_float} {deep.inverted};".encode(), digest_size=16)
    key.update(np.ascontiguousarray(deep.values, "<f4" if deep.is_float else "<i4").tobytes())
    if deep.opacity is not None:
        key.update(deep.opacity.tobytes())
    flat = _is_flat(deep.values) or (deep.opacity is not None and not deep.opacity.any())
    mode = mode if deep.values.ndim == 2 and mode != "RGBA" else f"{mode};16"
    return Facts(key.hexdigest(), name, mode, width, height, measured.low, measured.high, is_flat=flat)


def _is_flat(values: Array) -> bool:
    return bool((values == values[:1, :1]).all())


def _tensor(values: Array) -> "Tensor":
    import torch  # here: data can be described without it

    return torch.from_numpy(values).permute(2, 0, 1).contiguous()
