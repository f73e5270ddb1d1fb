"""From whatever a person calls an image to the square that a network takes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stagetune.data.decoding import read_image, rgb
from stagetune.data.deep import Deep
from stagetune.data.formats import reason
from stagetune.data.transforms import prepare
from stagetune.errors import DataError
from stagetune.inference.description import Preprocessing

OneImage = str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | Tensor


class Transform:
    """One image as the network was trained on it, without augmentation.

    Args:
        preprocessing: of the model.

    >>> Transform(Preprocessing(image_size=32))(np.zeros((40, 60, 3), np.uint8)).shape
    torch.Size([3, 32, 32])
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing
        self._wrappers = preprocessing.applied()
        self._scale = preprocessing.scale()

    def __call__(self, image: OneImage) -> Tensor:
        """Prepare one image.

        Args:
            image: a path, a PIL image, a uint8 or uint16 array [height, width, 3] or [height, width], or such a
                tensor [3, height, width]. Of a model with a range (see `Preprocessing`) their numbers may be any.

        Returns:
            uint8 [3, image_size, image_size], RGB; the network normalises it itself.

        Raises:
            DataError: for anything else.
        """
        pixels = self._pixels(image)
        for wrapper in self._wrappers:
            pixels = wrapper.prepare(pixels)
        wanted = self.preprocessing
        return prepare(pixels, wanted.image_size, wanted.interpolation, wanted.resize)

    def _pixels(self, image: Any) -> Tensor:
        """The image as uint8 [3, height, width]."""
        wanted = self.preprocessing
        if isinstance(image, str | os.PathLike):
            path = Path(image).expanduser()
            try:
                return read_image(
                    path, scale=self._scale, needed=wanted.image_size, max_megapixels=wanted.max_megapixels
                )
            except DataError as error:
                raise DataError(f"{image}: cannot be read as an image ({error})") from error
        if isinstance(image, Image.Image):
            try:
                return rgb(image, self._scale)
            except Exception as error:  # opened, but not yet decoded
                raise DataError(f"{type(image).__name__}: cannot be decoded ({reason(error)})") from error
        values = self._values(image)
        if values is None:
            shape = f" of shape {list(image.shape)} and {image.dtype}" if hasattr(image, "shape") else ""
            raise DataError(
                f"{type(image).__name__}{shape}: is no image; give a path, a PIL image, a uint8 array "
                "[height, width, 3] or a uint8 tensor [3, height, width]"
            )
        if values.dtype != np.uint8:
            values = Deep(values).scaled(self._scale)
        elif values.ndim == 2:
            values = np.repeat(values[..., None], 3, axis=2)
        return torch.from_numpy(values).permute(2, 0, 1).contiguous()

    def _values(self, image: Any) -> np.ndarray[Any, Any] | None:
        """Those of an array or a tensor as [height, width] or [height, width, 3]; None of what is no image."""
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype == torch.bfloat16:
                return None
            image = image.detach().cpu().permute(1, 2, 0).numpy()
        if not isinstance(image, np.ndarray) or not image.size:
            return None
        if image.ndim != 2 and (image.ndim != 3 or image.shape[2] != 3):
            return None
        # of other numbers nobody has said which are black and white, and they may be normalised
        may_be = image.dtype in (np.uint8, np.uint16) or (self._scale is not None and image.dtype.kind in "iuf")
        return np.array(image) if may_be else None
