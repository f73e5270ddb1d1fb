"""The loaders of a run, and the batch they give."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stagetune.data.samplers import (
    EpochBatches,
    Key,
    batch_shape,
    grouped_batches,
    identity_batches,
    pair_batches,
    shuffled_batches,
)
from stagetune.data.source import IntArray, Pairs, Source
from stagetune.data.splits import Split
from stagetune.data.transforms import OwnTransform, augment, prepare
from stagetune.errors import DataError
from stagetune.seams import FitLoop


@dataclass
class Batch:
    """What a step gets.

    `depth` says where in the backbone the inputs already are: 0 for images, k for the output of block k, so
    that a task never knows whether a cache served it.
    """

    index: Tensor  # int64 [n], each image's index in its source
    inputs: Tensor  # uint8 [n, 3, size, size] at depth 0
    depth: int
    target: Tensor  # int64 [n], class or identity

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; the loader calls it on a machine with a GPU."""
        return Batch(self.index.pin_memory(), self.inputs.pin_memory(), self.depth, self.target.pin_memory())


Serve = Callable[[Iterable[list[Key]]], Iterator[Batch]]
TESTED: tuple[Literal["test"], Literal["val"]] = ("test", "val")  # what the best model answers in the end, by loader


class Images(Dataset[Batch]):
    """The images of one part of a split, a whole batch at a time.

    `transform` is an augmentation of the user's own, after `augment`. `views` above 0 means that augmentation repeats
    itself after so many epochs. `decoded`, where it is set, has the images of the whole source, decoded and resized
    [images, 3, size, size].
    """

    def __init__(
        self,
        source: Source,
        indices: IntArray,
        *,
        size: int,
        interpolation: str = "bilinear",
        augment: str,
        seed: int,
        views: int = 0,
        transform: OwnTransform | None = None,
    ) -> None:
        self.source, self.indices, self.transform = source, indices, transform
        self.size, self.interpolation = size, interpolation
        self.augment, self.seed, self.views = augment, seed, views
        self.decoded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, keys: list[Key]) -> Batch:
        index = self.indices[[position for _, position in keys]]
        images = [
            self._augmented(self._decoded(i), (self.view(epoch), position))
            for i, (epoch, position) in zip(index.tolist(), keys, strict=True)
        ]
        inputs = torch.stack(images).contiguous(memory_format=torch.channels_last)
        return Batch(torch.from_numpy(index), inputs, 0, torch.from_numpy(self.source.labels[index]))

    def view(self, epoch: int) -> int:
        """Which augmentation of each image an epoch has; there is one only where nothing is augmented."""
        if not self.is_augmented:
            return 0
        return epoch % self.views if self.views else epoch

    @property
    def is_augmented(self) -> bool:
        return self.augment != "none" or self.transform is not None

    @property
    def distinct_views(self) -> int:
        """How many augmentations of each image there are; 0 for a new one in each epoch."""
        return self.views if self.is_augmented else 1

    @property
    def transform_key(self) -> str | None:
        """What decides the user's own augmentation of an image and view."""
        return f"{self.transform.fingerprint} {self.seed}" if self.transform else None

    def _augmented(self, image: Tensor, key: Key) -> Tensor:
        changed = augment(image, self.augment, seed=self.seed, key=key)
        return self.transform(changed, seed=self.seed, key=key) if self.transform else changed

    def _decoded(self, i: int) -> Tensor:
        return self._prepared(i) if self.decoded is None else self.decoded[i]

    def _prepared(self, i: int) -> Tensor:
        return prepare(self.source.image(i), self.size, self.interpolation)


class StagedLoader:
    """Batches of images from torch's DataLoader or, where `served` gives it, from a cache.

    Which of the two is asked when the first batch is, so that a stage decides as it begins.
    """

    batch_sampler = None  # as a DataLoader whose sampler yields whole batches

    def __init__(
        self, images: Images, sampler: EpochBatches, num_workers: int, served: Callable[[], Serve | None]
    ) -> None:
        self.sampler, self._served = sampler, served  # Lightning looks for a sampler to tell it the epoch
        self.images = images
        self._batches = _whole_batches(images, sampler, num_workers)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        serve = self._served()
        yield from self._batches if serve is None else serve(self.sampler)

    def sample(self, count: int) -> Batch:
        """The first images as a batch, which is none of those that the loader gives."""
        return self.images[[(0, position) for position in range(min(count, len(self.images)))]]


class StagedData(LightningDataModule):
    """Loaders over a source and its split; `images_per_identity` set means batches of identities x images.

    `by_group` means of one group each. With `pairs` a training batch has the images of some of them. It is `chunks`
    times as large as `batch_size`. `transform` is an augmentation of the user's own, tried on one image here.
    """

    def __init__(
        self,
        source: Source,
        split: Split,
        *,
        image_size: int,
        interpolation: str = "bilinear",
        batch_size: int,
        augment: str = "none",
        images_per_identity: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        views: int = 0,
        chunks: int = 1,
        pairs: Pairs | None = None,
        by_group: bool = False,
        transform: OwnTransform | None = None,
    ) -> None:
        super().__init__()
        smallest = min(map(len, split.parts().values()))
        if world_size > 1 and smallest < 2 * world_size:
            raise DataError(f"{smallest} images in a part of the split are too few for {world_size} processes")
        self.source, self.split, self.seed = source, split, seed
        self.image_size, self.interpolation = image_size, interpolation
        self.batch_size, self.augment = batch_size, augment
        self.train_batch_size = batch_size * chunks
        self.num_workers, self.rank, self.world_size = num_workers, rank, world_size
        self.parts = {
            part: Images(
                source,
                indices,
                size=image_size,
                interpolation=interpolation,
                augment=augment if part == "train" else "none",
                seed=seed,
                views=views if part == "train" else 0,
                transform=transform if part == "train" else None,
            )
            for part, indices in split.parts().items()
        }
        if transform is not None:
            example = prepare(source.image(int(split.train[0])), image_size, interpolation)
            transform.check(example, seed=seed)
        # the training images as they are measured
        self.parts["plain"] = self.parts["train"]
        if self.parts["train"].is_augmented:
            plain: dict[str, Any] = {"size": image_size, "interpolation": interpolation}
            self.parts["plain"] = Images(source, split.train, augment="none", seed=seed, **plain)
        self.served: dict[str, Serve] = {}  # parts whose batches come from the feature cache
        self.shape: tuple[int, int] | None = None
        self.pairs = pairs
        self._groups: IntArray | None = None  # of each training image, where a batch is of one group
        if pairs is None and images_per_identity is not None:
            labels = source.labels[split.train]
            identities = len(np.unique(labels))
            if by_group:
                if source.groups is None:
                    raise DataError(f"task.batches=by_group: {source.name} has no groups; use batches=identities")
                self._groups = np.unique(source.groups, return_inverse=True)[1][labels]
                sizes = [len(np.unique(labels[self._groups == group])) for group in np.unique(self._groups)]
                identities = min(sizes)
            if identities < 2 * world_size:
                some = "in a group " if by_group else ""
                raise DataError(
                    f"{identities} identities {some}are too few: each of {world_size} processes needs two"
                )
            self.shape = batch_shape(identities, self.train_batch_size, images_per_identity, world_size)

    def train_batches(self, epoch: int) -> list[list[int]]:
        """The positions of each batch of an epoch that this process gets."""
        order = {"seed": self.seed, "epoch": epoch, "rank": self.rank, "world_size": self.world_size}
        if self.pairs is not None:
            first, second, is_same = self._train_pairs(self.pairs)
            return pair_batches(first, second, is_same, self.train_batch_size, **order)
        if self.shape is None:
            return shuffled_batches(len(self.split.train), self.train_batch_size, **order)
        labels = self.source.labels[self.split.train]
        if self._groups is not None:
            return grouped_batches(labels, self._groups, *self.shape, **order)
        return identity_batches(labels, *self.shape, **order)

    def train_dataloader(self) -> StagedLoader:
        epoch, done = self._position()
        return self._loader("train", EpochBatches(self.train_batches, epoch=epoch, done=done))

    def _train_pairs(self, pairs: Pairs) -> tuple[IntArray, IntArray, IntArray]:
        """Positions within the training images, and is_same, of the pairs of which both are there."""
        where = np.full(len(self.source), -1)
        where[self.split.train] = np.arange(len(self.split.train))
        first, second = where[pairs.first], where[pairs.second]
        inside = (first >= 0) & (second >= 0)
        return first[inside], second[inside], pairs.is_same[inside]

    def _position(self) -> tuple[int, int]:
        """The epoch in which training begins or goes on, and how many of its batches are done."""
        if self.trainer is None:
            return 0, 0
        # Lightning takes the first batch before it says the epoch, so a restart has to be looked up
        loop = FitLoop(self.trainer)
        return loop.epoch, loop.batches_done if loop.is_within_epoch else 0

    def val_dataloader(self) -> StagedLoader:
        return self._ordered("val")

    def test_dataloader(self) -> list[StagedLoader]:
        return [self._ordered(part) for part in TESTED]

    def _ordered(self, part: str) -> StagedLoader:
        # mixed, so that a batch is not all of one class; always the same; twice as many fit without a backward pass
        draw = partial(_first_epoch, len(self.parts[part]), 2 * self.batch_size, self.rank, self.world_size)
        return self._loader(part, EpochBatches(draw))

    def _loader(self, part: str, batches: EpochBatches) -> StagedLoader:
        return StagedLoader(self.parts[part], batches, self._workers(part), lambda: self.served.get(part))

    def in_order(self, part: str, rows: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """A batch for each item of `rows`, which are rows of views x images."""
        images = self.parts[part]
        keys = [[divmod(row, len(images)) for row in batch] for batch in rows]
        return iter(_whole_batches(images, keys, self._workers(part)))

    def _workers(self, part: str) -> int:
        images = self.parts[part]  # taking decoded ones from memory needs no other processes
        return 0 if images.decoded is not None and not images.is_augmented else self.num_workers


def _first_epoch(count: int, batch_size: int, rank: int, world_size: int, epoch: int) -> list[list[int]]:
    return shuffled_batches(count, batch_size, seed=0, epoch=0, rank=rank, world_size=world_size)


def _whole_batches(images: Images, keys: Iterable[list[Key]], num_workers: int) -> DataLoader[Batch]:
    return DataLoader(
        images,
        sampler=keys,
        batch_size=None,  # a sampler's item is a whole batch already
        collate_fn=_as_is,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _as_is(batch: Any) -> Any:
    return batch
