"""Images of more than 8 bits a channel: their values, and how these become 8 bits."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from stagetune.data.facts import Range, fitting
from stagetune.errors import DataError

SWAPPED = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
# what libtiff gives is in the order of this machine, which Pillow 13 forgets of these
NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Deep:
    """The values of a deep image.

    Attributes:
        values: [height, width] or [height, width, 3], whole numbers or floats.
        opacity: uint8 [height, width]; None where all is opaque.
        inverted: whether the largest value is black.
    """

    values: Array
    opacity: npt.NDArray[np.uint8] | None = None
    inverted: bool = False

    @property
    def is_float(self) -> bool:
        return bool(self.values.dtype.kind == "f")

    def measured(self) -> Range:
        """From the least to the largest.

        Raises:
            DataError: where one is no number.
        """
        low, high = float(self.values.min()), float(self.values.max())
        if not np.isfinite([low, high]).all():
            raise DataError("has values that are NaN or infinite")
        return Range(low, high)

    def scaled(self, scale: Range | None) -> npt.NDArray[np.uint8]:
        """As uint8 [height, width, 3] on white; what lies beyond the range is black or white.

        Args:
            scale: of its data set; None for the range that fits this image alone.

        Raises:
            DataError: where a value is no number.
        """
        measured = self.measured()
        if scale is None:
            scale = fitting(measured.low, measured.high, is_float=self.is_float)
        shares = (self.values.astype(np.float64) - scale.low) * 255  # product first: v * 255 / 65535 is v // 257
        eight = (shares / (scale.high - scale.low or 1.0)).clip(0, 255).astype(np.uint8)
        if self.inverted:
            eight = 255 - eight
        if self.opacity is not None:
            opaque = self.opacity.astype(np.uint16).reshape(*self.opacity.shape, *[1] * (eight.ndim - 2))
            eight = ((eight * opaque + 255 * (255 - opaque) + 127) // 255).astype(np.uint8)
        return eight if eight.ndim == 3 else np.repeat(eight[..., None], 3, axis=2)


def deep_of(image: Image.Image, again: Callable[[], Image.Image] | None = None) -> Deep | None:
    """The values of an image that is deep; None of one of 8 bits.

    Args:
        image: open, not yet decoded where `again` is given.
        again: opens the same once more. Pillow has no mode for colours of 16 bits and keeps their high bytes, so that
            such an image is decoded twice, the second time with the bytes of each number swapped.
    """
    raw = _raw_mode(image)
    if image.mode == "F" or image.mode.startswith("I"):
        if raw in NATIVE and image.tile[0].codec_name == "libtiff":  # type: ignore[attr-defined]
            _set_raw_mode(image, NATIVE[raw])
        values = _array(image)
        key = image.info.get("transparency")
        see_through = values == key if isinstance(key, int) else None
        return Deep(values, _opacity(see_through), inverted=_white_is_zero(image))
    if again is None or not raw.startswith(("LA;16B", "RGB;16", "RGBX;16", "RGBA;16")):
        return None
    if raw == "LA;16B":  # its four bytes, one by one
        _set_raw_mode(image, "RGBA")
        parts = _array(image).astype(np.uint16)
        return Deep(parts[..., 0] << 8 | parts[..., 1], parts[..., 2].astype(np.uint8))
    high, other = _array(image), again()
    _set_raw_mode(other, raw[:-4] + SWAPPED[raw[-4:]])
    low = _array(other)
    values = high[..., :3].astype(np.uint16) << 8 | low[..., :3]
    if high.shape[-1] == 4:
        return Deep(values, high[..., 3])
    key = image.info.get("transparency")
    return Deep(values, _opacity((values == key).all(axis=-1) if isinstance(key, tuple) and len(key) == 3 else None))


def _array(image: Image.Image) -> Array:
    image.load()  # numpy alone hides what Pillow raises
    return np.asarray(image)


def _opacity(see_through: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.uint8] | None:
    return None if see_through is None else np.where(see_through, 0, 255).astype(np.uint8)


def _white_is_zero(image: Image.Image) -> bool:
    """Whether a TIFF says so; Pillow inverts those of 8 bits, and no others."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 1) == 0)


def _raw_mode(image: Image.Image) -> str:
    """How the channels lie in the file; empty where it is decoded already."""
    tile = getattr(image, "tile", None)
    arguments = tile[0].args if tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _set_raw_mode(image: Any, raw: str) -> None:
    image.tile = [
        part._replace(args=(raw, *part.args[1:]) if isinstance(part.args, tuple) else raw) for part in image.tile
    ]
