"""scikit-learn's handwritten digits: 1,797 real images of 8x8 pixels that need no download."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from stagetune.data.source import IntArray


class Digits:
    """UCI ML hand-written digits (Alpaydin & Kaynak 1998, the test part), as scikit-learn ships them."""

    name = origin = "digits"
    groups: list[str] | None = None
    split: list[str] | None = None

    def __init__(self) -> None:
        bunch = load_digits()
        gray = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
        self._images = gray[:, None].expand(-1, 3, -1, -1)
        self.classes = [str(digit) for digit in range(10)]
        self.labels: IntArray = bunch.target.astype(np.int64)
        self.contents = [image.numpy().tobytes().hex() for image in gray]
        self.notes: list[str] = []

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> Tensor:
        return self._images[index]

    def describe(self, index: int) -> str:
        return f"digit {index} (a {self.labels[index]})"
