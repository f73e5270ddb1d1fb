"""What computes a model's outputs: a module each."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
Outputs = Mapping[str, npt.NDArray[np.float32]]


class Runtime(Protocol):
    """Images to outputs.

    Attributes:
        name: as `stagetune.load(runtime=...)` takes it.
        about: what `stagetune info` says of it, such as its version, device and precision.
    """

    name: str
    about: dict[str, Any]

    def __call__(self, images: Images) -> Outputs:
        """The outputs by name, each float32 [n, ...], of uint8 images [n, 3, size, size]."""
