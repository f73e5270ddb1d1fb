"""The loaders of a run, and the batch they give."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stagetune.data.augmentation import Augmentation
from stagetune.data.facts import Range
from stagetune.data.samplers import (
    EpochBatches,
    Key,
    Visit,
    balanced_batches,
    batch_shape,
    grouped_batches,
    identity_batches,
    pair_batches,
    shuffled_batches,
)
from stagetune.data.source import IntArray, Pairs, Source
from stagetune.data.splits import Split
from stagetune.data.transforms import prepare
from stagetune.data.views import views_of
from stagetune.errors import DataError
from stagetune.seams import FitLoop, end_where_nothing_can_be_sent


@dataclass
class Batch:
    """What a step gets.

    `depth` says where in the backbone the inputs already are: 0 for images, k for the output of block k, so
    that a task never knows whether a cache served it.
    """

    index: Tensor  # int64 [n], each image's index in its source
    inputs: Tensor  # uint8 [n, 3, size, size] at depth 0, float where images are mixed
    depth: int
    target: Tensor  # int64 [n], class or identity; where images are mixed shares of the classes [n, classes]

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; the loader calls it on a machine with a GPU."""
        return Batch(self.index.pin_memory(), self.inputs.pin_memory(), self.depth, self.target.pin_memory())


Serve = Callable[[Iterable[list[Key]]], Iterator[Batch]]
TESTED: tuple[Literal["test"], Literal["val"]] = ("test", "val")  # what the best model answers in the end, by loader


class Images(Dataset[Batch]):
    """Views of the images of one part of a split, a whole batch at a time.

    With `views` above 0 there are so many of each image. `decoded`, where it is set, has the images of the whole
    source, decoded and resized [images, 3, size, size].
    """

    def __init__(
        self,
        source: Source,
        indices: IntArray,
        *,
        size: int,
        interpolation: str = "bilinear",
        resize: str = "crop",
        augmentation: Augmentation,
        views: int = 0,
        scale: Range | None = None,
    ) -> None:
        self.source, self.indices, self.scale = source, indices, scale
        self.size, self.interpolation, self.resize = size, interpolation, resize
        self.augmentation, self.views = augmentation, views
        self.decoded: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, keys: list[Key]) -> Batch:
        index = self.indices[[position for _, position in keys]]
        images = [self._view(i, view) for i, (view, _) in zip(index.tolist(), keys, strict=True)]
        inputs = torch.stack(images).contiguous(memory_format=torch.channels_last)
        return Batch(torch.from_numpy(index), inputs, 0, torch.from_numpy(self.source.labels[index]))

    @property
    def distinct_views(self) -> int:
        """How many there are of each image; 0 for another one at each visit."""
        return self.views if self.augmentation else 1

    @property
    def views_key(self) -> list[Any] | None:
        """What decides the views of the images, beside their contents; None where there is only the image itself."""
        if not self.augmentation:
            return None
        return [*self.augmentation.key, hashlib.blake2b(self.indices.tobytes(), digest_size=8).hexdigest()]

    def _view(self, i: int, view: int) -> Tensor:
        image = self.prepared(i) if self.decoded is None else self.decoded[i]
        return self.augmentation(image, i, view) if self.augmentation else image

    def prepared(self, i: int) -> Tensor:
        """An image of the source as it is measured."""
        return prepare(self.source.image(i), self.size, self.interpolation, self.resize)


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

    `by_group` means of one group each. With `pairs` a training batch has the images of some of them, with `balanced`
    each class as often. It is `chunks` times as large as `batch_size`. `augmentation` is of training images; which
    of their `views` an epoch sees follows from `seed`. A transform of the user's own is tried on one image here.
    `mixes` says that the task mixes the images of a training batch, `scale` how the source scales its deep images.
    """

    def __init__(
        self,
        source: Source,
        split: Split,
        *,
        image_size: int,
        interpolation: str = "bilinear",
        resize: str = "crop",
        batch_size: int,
        augmentation: Augmentation = Augmentation(),  # noqa: B008 - it is frozen
        images_per_identity: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        views: int = 0,
        chunks: int = 1,
        pairs: Pairs | None = None,
        by_group: bool = False,
        balanced: bool = False,
        mixes: bool = False,
        scale: Range | None = None,
    ) -> None:
        super().__init__()
        smallest = min(map(len, split.parts().values()))
        if world_size > 1 and smallest < 2 * world_size:
            raise DataError(f"{smallest} images in a part of the split are too few for {world_size} processes")
        self.source, self.split, self.seed = source, split, seed
        self.image_size, self.interpolation, self.resize, self.scale = image_size, interpolation, resize, scale
        self.batch_size, self.balanced, self.mixes = batch_size, balanced, mixes
        self.train_batch_size = batch_size * chunks
        self.num_workers, self.rank, self.world_size = num_workers, rank, world_size
        how = {"interpolation": interpolation, "resize": resize, "scale": scale}
        square: dict[str, Any] = {"size": image_size, **how}
        self.parts = {
            part: Images(source, indices, **square, augmentation=Augmentation())
            for part, indices in split.parts().items()
        }
        self.parts["plain"] = self.parts["train"]  # the training images as they are measured
        if augmentation:
            self.parts["train"] = Images(source, split.train, **square, augmentation=augmentation, views=views)
        if augmentation.own is not None:
            augmentation.own.check(self.parts["plain"].prepared(int(split.train[0])), seed=augmentation.seed)
        self.served: dict[str, Serve] = {}  # parts whose batches come from the feature cache
        self.shape: tuple[int, int] | None = None
        self.pairs = pairs
        self._groups: IntArray | None = None  # of each training image, where a batch is of one group
        if pairs is None and images_per_identity is not None:
            labels = source.labels[split.train]
            identities = len(np.unique(labels))
            if by_group:
                if source.groups is None:
                    why = "identities of images in several groups" if source.image_groups else "no groups"
                    raise DataError(f"task.batches=by_group: {source.name} has {why}; use task.batches=identities")
                self._groups = np.unique(source.groups, return_inverse=True)[1][labels]
                sizes = [len(np.unique(labels[self._groups == group])) for group in np.unique(self._groups)]
                identities = min(sizes)
            if identities < 2 * world_size:
                some = "in a group " if by_group else ""
                raise DataError(
                    f"{identities} identities {some}are too few: each of {world_size} processes needs two"
                )
            self.shape = batch_shape(identities, self.train_batch_size, images_per_identity, world_size)

    def repeats(self, part: str) -> bool:
        """Whether what the task is given of a part comes the same again."""
        return self.parts[part].distinct_views > 0 and not (self.mixes and part == "train")

    def train_batches(self, epoch: int) -> list[list[int]]:
        """The positions of each batch of an epoch that this process gets."""
        return [[position for _, position in batch] for batch in self._train_visits(epoch)]

    def _train_visits(self, epoch: int) -> list[list[Visit]]:
        order: Any = {"seed": self.seed, "epoch": epoch, "rank": self.rank, "world_size": self.world_size}
        labels = self.source.labels[self.split.train]
        if self.balanced:
            return balanced_batches(labels, self.train_batch_size, **order)
        if self.pairs is not None:
            batches = pair_batches(*self._train_pairs(self.pairs), self.train_batch_size, **order)
        elif self.shape is None:
            batches = shuffled_batches(len(labels), self.train_batch_size, **order)
        elif self._groups is not None:
            batches = grouped_batches(labels, self._groups, *self.shape, **order)
        else:
            batches = identity_batches(labels, *self.shape, **order)
        return [[(epoch, position) for position in batch] for batch in batches]

    def train_dataloader(self) -> StagedLoader:
        epoch, done = self._position()
        return self._loader("train", self._train_visits, epoch=epoch, done=done)

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
        return self._loader(part, draw)

    def _loader(self, part: str, draw: Callable[[int], list[list[Visit]]], **start: int) -> StagedLoader:
        batches = EpochBatches(draw, partial(self._keys, part), **start)
        return StagedLoader(self.parts[part], batches, self._workers(part), lambda: self.served.get(part))

    def _keys(self, part: str, visits: list[Visit]) -> list[Key]:
        images = self.parts[part]
        visit, position = np.array(visits).T
        views = views_of(visit, images.indices[position], seed=self.seed, views=images.distinct_views)
        return list(zip(views.tolist(), position.tolist(), strict=True))

    def in_order(self, part: str, rows: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """A batch for each item of `rows`, which are rows of views x images."""
        images = self.parts[part]
        keys = [[divmod(row, len(images)) for row in batch] for batch in rows]
        return iter(_whole_batches(images, keys, self._workers(part)))

    def _workers(self, part: str) -> int:
        images = self.parts[part]  # taking decoded ones from memory needs no other processes
        return 0 if images.decoded is not None and not images.augmentation else self.num_workers


def _first_epoch(count: int, batch_size: int, rank: int, world_size: int, epoch: int) -> list[list[Visit]]:
    batches = shuffled_batches(count, batch_size, seed=0, epoch=0, rank=rank, world_size=world_size)
    return [[(0, position) for position in batch] for batch in batches]


def _whole_batches(images: Images, keys: Iterable[list[Key]], num_workers: int) -> DataLoader[Batch]:
    return DataLoader(
        images,
        sampler=keys,
        batch_size=None,  # a sampler's item is a whole batch already
        collate_fn=_as_is,
        num_workers=num_workers,
        worker_init_fn=end_where_nothing_can_be_sent,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _as_is(batch: Any) -> Any:
    return batch
