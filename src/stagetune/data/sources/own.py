"""A data set of a person's own, or of a library, by `data._target_`: a map-style dataset of image and label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from stagetune.config.schema import Config
from stagetune.config.settings import GroupSettings
from stagetune.data.decoding import facts_from, look_at, rgb
from stagetune.data.facts import Facts, Range
from stagetune.data.formats import reason
from stagetune.data.groups import class_groups
from stagetune.data.source import IntArray
from stagetune.errors import DataError
from stagetune.targets import build, check_target

if TYPE_CHECKING:
    from torch import Tensor

TRIES = 16  # a mirrored image may be as it was
KINDS = "a PIL image, a uint8 array [height, width, 3] or [height, width], or a uint8 tensor [3 or 1, height, width]"


@dataclass
class Settings(GroupSettings):
    """`data._target_=package.Dataset`: its arguments are the keys that data has not of its own."""

    name: str = "own"
    target: dict[str, Any] = field(default_factory=dict)

    def target_problems(self, config: Config) -> list[str]:
        problems = check_target("data", self.target)
        lacks = [problem.split(":")[1].split() for problem in problems if problem.startswith("data: lacks ")]
        ours = [entry.name for entry in fields(self) if any(entry.name in words for words in lacks)]
        return [*problems, *(f"data.{key}: is ours; give your class's as data.target.{key}=..." for key in ours)]

    def build(self, image_size: int) -> "tuple[OwnImages, None]":
        return OwnImages(build(self.target)(), str(self.target["_target_"])), None


class OwnImages:
    """The images of a map-style dataset, each read once at the start for its label and content.

    Args:
        dataset: has a length, and gives an image and its label (a whole number or a name) for each index.
            `dataset.classes`, where it has that, names its labels. An item that is a mapping of `image` and `label`
            may have the `group` of the image, too, such as its patient.
        name: what it is called in messages.

    Raises:
        DataError: for anything else, naming the index.
    """

    split: list[str] | None = None

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.origin = dataset, name
        self.name = name.rpartition(".")[2]
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise DataError(f"data._target_={name}: is no map-style dataset; it needs __len__ and __getitem__")
        labels, groups = [], []
        self.facts: list[Facts] = []
        self.scale: Range | None = None  # of the deep ones among them
        for index in range(len(dataset)):
            picture, label, group = self._item(index)
            labels.append(self._named(label, index, "label"))
            groups.append(None if group is None else str(self._named(group, index, "group")))
            self.facts.append(self._facts(picture, index))
        self.contents = [facts.content for facts in self.facts]
        if not labels:
            raise DataError(f"data._target_={name}: is empty")
        known = sorted(set(labels), key=lambda label: (isinstance(label, str), label))
        self.classes = [_name_of(label, getattr(dataset, "classes", None)) for label in known]
        position = {label: i for i, label in enumerate(known)}
        self.labels: IntArray = np.array([position[label] for label in labels], dtype=np.int64)
        if None in groups and set(groups) != {None}:
            raise DataError(
                f"data._target_={name}: item {groups.index(None)} has no group; give one to all or to none"
            )
        self.image_groups = [group for group in groups if group is not None] or None
        self.groups = class_groups(self.labels, self.image_groups)
        self.notes: list[str] = []
        again = [i % len(labels) for i in range(TRIES)]
        if any(self._facts(self._item(i)[0], i).content != self.contents[i] for i in again):
            raise DataError(
                f"data._target_={name}: gives another image when it is asked for one again; leave augmentation to "
                "data.augment and data.transform"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> "Tensor":
        picture = self._item(index)[0]
        return rgb(picture, self.scale) if isinstance(picture, Image.Image) else picture

    def describe(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def _item(self, index: int) -> "tuple[Image.Image | Tensor, Any, Any]":
        try:
            item = self.dataset[index]
            is_named = isinstance(item, Mapping)
            image, label, *_ = (item["image"], item["label"]) if is_named else item
            group = item.get("group") if is_named else None
        except Exception as error:  # somebody's code
            raise DataError(f"data._target_={self.origin}: item {index}: {type(error).__name__}: {error}") from error
        return self._picture(image, index), label, group

    def _facts(self, picture: "Image.Image | Tensor", index: int) -> Facts:
        try:
            if isinstance(picture, Image.Image):
                return look_at(picture)[0]
            return facts_from(picture, "", "RGB", picture.shape[2], picture.shape[1])
        except Exception as error:  # opened, but not yet decoded
            raise DataError(f"data._target_={self.origin}: item {index}: {reason(error)}") from error

    def _picture(self, image: Any, index: int) -> "Image.Image | Tensor":
        """An image of which the pixels are known, or can be had."""
        import torch

        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
            image = image[..., 0] if image.shape[2:] == (1,) else image
            image = Image.fromarray(image) if image.ndim == 2 or image.shape[2:] == (3,) else image
        if isinstance(image, Image.Image):
            return image
        if (
            isinstance(image, torch.Tensor)
            and image.dtype == torch.uint8
            and image.ndim == 3
            and len(image) in (1, 3)
        ):
            return image.expand(3, -1, -1)
        what = type(image).__name__
        if hasattr(image, "shape"):
            what += f" {list(image.shape)} of {image.dtype}"
        raise DataError(
            f"data._target_={self.origin}: item {index} has a {what} as its image; give {KINDS}: what turns it into "
            "numbers, and normalises it, is ours (leave ToTensor and Normalize out)"
        )

    def _named(self, value: Any, index: int, what: str) -> int | str:
        """A label or group as it is called."""
        if isinstance(value, str):
            return value
        try:
            if value == int(value):
                return int(value)
            raise ValueError
        except (TypeError, ValueError, OverflowError, RuntimeError):
            given = f"{value!r}"[:40]
            raise DataError(
                f"data._target_={self.origin}: item {index} has {given} as its {what}; give a whole number or a name"
            ) from None


def _name_of(label: int | str, classes: Sequence[str] | None) -> str:
    """A class's name: as the dataset has it, else the label itself."""
    if isinstance(label, int) and isinstance(classes, Sequence) and 0 <= label < len(classes):
        return str(classes[label])
    return str(label)
