"""Data sets that torchvision reads by name, and can fetch, with the split of their authors."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagetune.config.schema import Config
from stagetune.config.settings import SplitSettings
from stagetune.data.image_files import Entry, ImageFiles, Listed, Row
from stagetune.data.splits import leave_split_of_images
from stagetune.errors import DataError
from stagetune.typed import choice

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class Settings(SplitSettings):
    """`data=cifar10` and others, each with its `dataset`."""

    name: str = "torchvision"
    dataset: str = choice(
        "CIFAR10", "CIFAR100", "EuroSAT", "FashionMNIST", "Flowers102", "Food101", "OxfordIIITPet", "STL10"
    )
    root: str = "data"
    download: bool = False
    on_error: str = choice("raise", "skip")

    published = True

    def problems(self, config: Config) -> Iterator[str]:
        yield from SplitSettings.problems(self, config)
        if not self.download and not Path(self.root).expanduser().is_dir():
            yield (
                f"data.root={self.root}: is not there, seen from {Path.cwd()}; give the folder that holds "
                f"{SETS[self.dataset].holds}, or let torchvision fetch it with data.download=true"
            )

    def build(self, image_size: int) -> tuple[ImageFiles, None]:
        entries, classes = listed(self.dataset, self.root, download=self.download)
        notes = []
        if len(entries) != SETS[self.dataset].images:
            notes.append(f"{len(entries):,} of the {SETS[self.dataset].images:,} images that its authors published")
        source = ImageFiles(self.dataset, self.dataset, entries, on_error=self.on_error, notes=notes, classes=classes)
        if self.split == "identities":
            leave_split_of_images(source)
        return source, None


@dataclass(frozen=True)
class Published:
    """A data set as its authors published it.

    Attributes:
        holds: what torchvision looks for in its root.
        images: how many there are.
        parts: arguments of torchvision's class for train, val and test; for "" where there is no split.
    """

    holds: str
    images: int
    parts: Mapping[str, Mapping[str, Any]]


_TRAIN_OR_NOT = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
SETS = {
    "CIFAR10": Published("cifar-10-batches-py", 60_000, _TRAIN_OR_NOT),
    "CIFAR100": Published("cifar-100-python", 60_000, _TRAIN_OR_NOT),
    "EuroSAT": Published("eurosat/2750", 27_000, {"": {}}),
    "FashionMNIST": Published("FashionMNIST/raw", 70_000, _TRAIN_OR_NOT),
    "Flowers102": Published("flowers-102", 8_189, {**_TRAIN_TEST, "val": {"split": "val"}}),
    "Food101": Published("food-101", 101_000, _TRAIN_TEST),
    "OxfordIIITPet": Published("oxford-iiit-pet", 7_349, {"train": {"split": "trainval"}, "test": {"split": "test"}}),
    "STL10": Published("stl10_binary", 13_000, _TRAIN_TEST),
}


def listed(dataset: str, root: str | Path, *, download: bool = False) -> tuple[list[Listed], list[str]]:
    """The images of a data set, none decoded, and its classes in their order.

    Raises `DataError` where torchvision finds it neither whole nor, with `download`, can fetch it.
    """
    folder, parts = Path(root).expanduser(), SETS[dataset].parts
    with ExitStack() as stack:
        try:
            if download:
                stack.enter_context(_alone(folder, dataset))
            found = {part: _opened(dataset, folder, arguments, download) for part, arguments in parts.items()}
            rows = [row for part, images in found.items() for row in _rows(dataset, part, images)]
            return rows, list(next(iter(found.values())).classes)
        except Exception as error:  # of torchvision, of the network, of a damaged file: in many ways
            raise DataError(_not_there(dataset, folder, download, error)) from error


def _alone(folder: Path, dataset: str) -> Any:
    """A lock: of several processes one fetches, the others wait and find it."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f".{dataset}.lock")


def _opened(dataset: str, folder: Path, arguments: Mapping[str, Any], download: bool) -> Any:
    from torchvision import datasets

    kind = getattr(datasets, dataset)
    # those of files give the path in place of the image
    loader = {"loader": str} if dataset in ("EuroSAT", "Flowers102", "Food101") else {}
    return kind(root=str(folder), download=download, **arguments, **loader)


def _rows(dataset: str, part: str, images: Any) -> Iterator[Listed]:
    """What is in one part of a data set."""
    split = part or None
    if dataset in ("CIFAR10", "CIFAR100", "FashionMNIST", "STL10"):
        where, labels = f"{dataset} {part}", images.labels if dataset == "STL10" else images.targets
        for index, label in enumerate(labels):
            yield Row(partial(_image, images), index, where, images.classes[int(label)], split)
    elif dataset == "OxfordIIITPet":  # it has no name for its list of files
        for path, label in zip(images._images, images._labels, strict=True):
            yield Entry(path, images.classes[label], split)
    else:
        for index in range(len(images)):
            path, label = images[index]
            yield Entry(Path(path), images.classes[label], split)


def _image(images: Any, index: int) -> "Image.Image":
    image: Image.Image = images[index][0]
    return image


def _not_there(dataset: str, folder: Path, download: bool, error: Exception) -> str:
    place = folder / SETS[dataset].holds
    said = " ".join(f"{type(error).__name__}: {error}".split())
    if download:
        return (
            f"data.download=true: torchvision could not fetch and read {dataset} ({said}); remove what is damaged "
            f"in {place} and try again, or put it there as its authors publish it"
        )
    why = f" ({said})" if "download=True" not in said else ""
    return (
        f"data.root={folder}: torchvision finds no whole {dataset} there{why}; it looks for {place}, as its authors "
        "publish it, and compares the checksums that it knows: give the folder that holds it, or have it fetched "
        "with data.download=true"
    )
