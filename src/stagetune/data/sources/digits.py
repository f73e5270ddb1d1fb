"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels that need no download."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stagetune.config.settings import SplitSettings
from stagetune.data.source import IntArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Settings(SplitSettings):
    """`data=digits`."""

    name: str = "digits"

    reads_files = may_be_photographs = False

    def build(self, image_size: int) -> "tuple[Digits, None]":
        return Digits(), None


class Digits:
    """UCI ML hand-written digits (Alpaydin & Kaynak 1998, the test part), as scikit-learn ships them."""

    name = origin = "digits"
    groups: list[str] | None = None
    image_groups: list[str] | None = None
    split: list[str] | None = None

    def __init__(self) -> None:
        import torch
        from sklearn.datasets import load_digits

        bunch = load_digits()
        gray = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
        self._images = gray[:, None].expand(-1, 3, -1, -1)
        self.classes = [str(digit) for digit in range(10)]
        self.labels: IntArray = bunch.target.astype(np.int64)
        self.contents = [image.numpy().tobytes().hex() for image in gray]
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> "Tensor":
        return self._images[index]

    def describe(self, index: int) -> str:
        return f"digit {index} (a {self.labels[index]})"
