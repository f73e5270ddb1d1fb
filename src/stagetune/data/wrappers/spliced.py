"""Training drawings also spliced with those of other classes, as classes of their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stagetune.config.schema import Config
from stagetune.config.settings import WrapperSettings
from stagetune.data.source import IntArray, Source
from stagetune.data.splits import Split
from stagetune.data.wrappers.centred import Settings as Centred
from stagetune.data.wrappers.centred import centred
from stagetune.errors import DataError
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Settings(WrapperSettings):
    """`data.spliced`."""

    spliced: int = number(0, 0)

    def problems(self, config: Config) -> Iterator[str]:
        if self.spliced and config.task.name == "classifier":
            yield "data.spliced: makes identities of spliced images, no classes to be named; use task=siamese"
        if self.spliced and not (isinstance(config.data, Centred) and config.data.centred):
            yield f"data.spliced={self.spliced}: lays halves of centred drawings together; add data.centred=true"

    def wrap(self, source: Source, split: Split, seed: int) -> tuple[Source, Split]:
        return splice(source, split, self.spliced, seed) if self.spliced else (source, split)


class Spliced:
    """The images of a source, followed by as many again as `left` names: left halves beside right halves.

    The spliced images of one class on the left and one on the right are a class of their own. The source's drawings
    are centred, and so is what is made of them.
    """

    def __init__(self, source: Source, left: IntArray, right: IntArray) -> None:
        self.source, self.name, self.origin = source, source.name, source.origin
        self.left, self.right = left.tolist(), right.tolist()
        n = len(source.classes)
        pairs, labels = np.unique(source.labels[left] * n + source.labels[right], return_inverse=True)
        lefts, rights = (pairs // n).tolist(), (pairs % n).tolist()
        self.labels: IntArray = np.concatenate([source.labels, labels + n])
        self.classes = source.classes + _spliced_names(source.classes, lefts, rights)
        self.groups = source.groups and source.groups + _spliced_names(source.groups, lefts, rights)
        # of two; what they do not come to is validation or test
        self.image_groups = source.image_groups and source.image_groups + [source.image_groups[i] for i in self.left]
        self.split = source.split and source.split + ["train"] * len(left)
        self.contents = source.contents + _spliced_names(source.contents, self.left, self.right)
        self.notes = [
            *source.notes,
            f"what is trained on also spliced, left halves with right halves: {len(pairs)} classes more",
        ]

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> "Tensor":
        import torch
        from torchvision.transforms.v2 import functional as F

        i = index - len(self.source)
        if i < 0:
            return self.source.image(index)
        left, right = self.source.image(self.left[i]), self.source.image(self.right[i])
        right = F.resize(right, list(left.shape[1:]), antialias=True)
        middle = left.shape[2] // 2
        return centred(torch.cat([left[..., :middle], right[..., middle:]], dim=2))

    def describe(self, index: int) -> str:
        i = index - len(self.source)
        if i < 0:
            return self.source.describe(index)
        return f"{self.source.describe(self.left[i])} x {self.source.describe(self.right[i])}"


def splice(source: Source, split: Split, partners: int, seed: int) -> tuple[Source, Split]:
    """The source with each training image once more as a left half, and its split with those in train.

    The images of a class take turns in the right halves of `partners` others. Raises `DataError` if there are fewer.
    """
    labels = source.labels[split.train]
    classes = np.random.default_rng(seed).permutation(np.unique(labels)).tolist()
    if partners >= len(classes):
        most = len(classes) - 1
        raise DataError(f"data.spliced={partners}: there are {most + 1} identities to train on; take at most {most}")
    images = {label: split.train[labels == label] for label in classes}
    right = []
    for place, label in enumerate(classes):
        for i in range(len(images[label])):
            other = images[classes[(place + 1 + i % partners) % len(classes)]]
            right.append(other[i % len(other)])
    more = Spliced(source, np.concatenate([images[label] for label in classes]), np.array(right))
    return more, Split(np.concatenate([split.train, np.arange(len(source), len(more))]), split.val, split.test)


def _spliced_names(names: list[str], lefts: list[int], rights: list[int]) -> list[str]:
    return [f"{names[left]} x {names[right]}" for left, right in zip(lefts, rights, strict=True)]
