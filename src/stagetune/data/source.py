"""What a data set is to the rest of the project."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

KEYS = 1  # the kind of `Source.contents`; another where a version makes the key of the same image otherwise
IntArray = npt.NDArray[np.int64]


class Source(Protocol):
    """Labelled images by index; one implementation per data set format."""

    name: str
    origin: str  # where it comes from: classes of one origin are the same things in every run
    classes: list[str]  # class or identity names
    labels: IntArray  # [n], the class of each image
    groups: list[str] | None  # per class the group that all its images belong to, such as a script
    image_groups: list[str] | None  # per image the group it belongs to, such as a patient
    split: list[str] | None  # per image "train", "val" or "test" where the data set brings its own split
    contents: list[str]  # per image a key of its content; equal keys are the same picture
    notes: list[str]  # what a person should know of it, such as files left out

    def __len__(self) -> int: ...

    def image(self, index: int) -> "Tensor":
        """The decoded image, uint8 [3, height, width]."""

    def describe(self, index: int) -> str:
        """Which image this is, for a message."""


@dataclass(frozen=True)
class Pairs:
    """Positions of images in their source, whether they are of one identity, and the fold of each pair."""

    first: IntArray
    second: IntArray
    is_same: IntArray  # 1 or 0
    fold: IntArray  # counted from 0; -1 where the table has none
