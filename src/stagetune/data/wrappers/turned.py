"""Training identities also turned by quarters, as identities of their own."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stagetune.config.schema import Config
from stagetune.config.settings import WrapperSettings
from stagetune.data.source import IntArray, Source
from stagetune.data.splits import Split

if TYPE_CHECKING:
    from torch import Tensor

QUARTERS = 4


@dataclass
class Settings(WrapperSettings):
    """`data.turned`."""

    turned: bool = False

    def problems(self, config: Config) -> Iterator[str]:
        if self.turned and config.task.name == "classifier":
            yield "data.turned: makes identities of turned images, no classes to be named; use task=siamese"

    def wrap(self, source: Source, split: Split, seed: int) -> tuple[Source, Split]:
        return turned(source, split) if self.turned else (source, split)


class Turned:
    """The images of a source, followed by the same ones turned by 90°, 180° and 270°, as other classes.

    The class augmentation that is common with handwritten characters (Santoro et al. 2016, section 4.1).
    """

    def __init__(self, source: Source) -> None:
        self.source, self.name, self.origin = source, source.name, source.origin
        self.classes = [name + _by(quarter) for quarter in range(QUARTERS) for name in source.classes]
        self.labels: IntArray = np.concatenate([source.labels + q * len(source.classes) for q in range(QUARTERS)])
        self.groups = source.groups and [
            group + _by(quarter) for quarter in range(QUARTERS) for group in source.groups
        ]
        self.image_groups = source.image_groups and QUARTERS * source.image_groups
        self.split = source.split and QUARTERS * source.split
        self.contents = [key + _by(quarter) for quarter in range(QUARTERS) for key in source.contents]
        self.notes = [
            *source.notes,
            f"what is trained on also turned by 90°, 180°, 270°: {QUARTERS} times the classes",
        ]

    def __len__(self) -> int:
        return QUARTERS * len(self.source)

    def image(self, index: int) -> "Tensor":
        quarter, index = divmod(index, len(self.source))
        return self.source.image(index).rot90(quarter, (1, 2))

    def describe(self, index: int) -> str:
        quarter, index = divmod(index, len(self.source))
        return self.source.describe(index) + _by(quarter)


def turned(source: Source, split: Split) -> tuple[Source, Split]:
    """The source with turned images, and its split with those of the training images in train."""
    train = np.concatenate([split.train + quarter * len(source) for quarter in range(QUARTERS)])
    return Turned(source), Split(train, split.val, split.test)


def _by(quarter: int) -> str:
    return f" turned {90 * quarter}°" if quarter else ""
