"""From whatever a person calls an image to the square that a network takes."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stagetune.data.decoding import read_image, rgb
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

    def __call__(self, image: OneImage) -> Tensor:
        """Prepare one image.

        Args:
            image: a path, a PIL image, a uint8 array [height, width, 3] or [height, width], or a uint8 tensor
                [3, height, width].

        Returns:
            uint8 [3, image_size, image_size], RGB; the network normalises it itself.

        Raises:
            DataError: for anything else.
        """
        pixels = _pixels(image)
        for wrapper in self._wrappers:
            pixels = wrapper.prepare(pixels)
        wanted = self.preprocessing
        return prepare(pixels, wanted.image_size, wanted.interpolation, wanted.resize)


def _pixels(image: Any) -> Tensor:
    """The image as uint8 [3, height, width]."""
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(Path(image).expanduser())
        except OSError as error:
            why = error.strerror or str(error)
            raise DataError(f"{image}: cannot be read as an image ({why})") from error
        except Exception as error:  # Pillow's decoders raise many types for a damaged file
            raise DataError(f"{image}: cannot be read as an image ({error})") from error
    if isinstance(image, Image.Image):
        try:
            return rgb(image)
        except Exception as error:  # opened, but not yet decoded
            raise DataError(f"{type(image).__name__}: cannot be decoded ({error})") from error
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        gray_or_colour = image if image.ndim == 2 or image.shape[-1:] == (3,) else None
        if gray_or_colour is not None and gray_or_colour.ndim in (2, 3) and image.size:
            return rgb(Image.fromarray(gray_or_colour))
    if (
        isinstance(image, Tensor)
        and image.dtype == torch.uint8
        and image.ndim == 3
        and image.shape[0] == 3
        and image.numel()
    ):
        return image.cpu()
    shape = f" of shape {list(image.shape)} and {image.dtype}" if hasattr(image, "shape") else ""
    raise DataError(
        f"{type(image).__name__}{shape}: is no image; give a path, a PIL image, a uint8 array [height, width, 3] "
        "or a uint8 tensor [3, height, width]"
    )
