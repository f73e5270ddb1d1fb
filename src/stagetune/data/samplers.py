"""In which order images come: pure functions of (seed, epoch)."""

import heapq
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
from torch.utils.data import Sampler

from stagetune.data.source import IntArray

Visit = tuple[int, int]  # how many times an image came before, and its position within the split
Key = tuple[int, int]  # the view that a visit sees, and the position: all that an augmented image depends on
Batches = list[list[int]]

T = TypeVar("T")


class EpochBatches(Sampler[list[Key]]):
    """Yields a batch at a time as keys; Lightning says of which epoch.

    Training that goes on within epoch `epoch` begins after the `done` batches of it.

    Args:
        draw: the batches of an epoch, as visits.
        keys: the views that visits see.
        epoch: the first one.
        done: how many of its batches are left out.
    """

    def __init__(
        self,
        draw: Callable[[int], list[list[Visit]]],
        keys: Callable[[list[Visit]], list[Key]],
        *,
        epoch: int = 0,
        done: int = 0,
    ) -> None:
        self._draw, self._keys = lru_cache(maxsize=1)(draw), keys
        self._epoch = self._first_epoch = epoch
        self._done = done

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self._epoch
        done = self._done if epoch == self._first_epoch else 0
        return map(self._keys, self._draw(epoch)[done:])

    def __len__(self) -> int:
        return len(self._draw(self._epoch))


def shuffled_batches(
    count: int, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> Batches:
    """Every position once, in random order, and of each batch what process `rank` of `world_size` gets.

    `batch_size` is each process's. A last batch with less than two images for each joins the one before it
    (BatchNorm).
    """
    order = np.random.default_rng([seed, epoch, 3]).permutation(count).tolist()
    return _in_batches(order, batch_size, rank, world_size)


def balanced_batches(
    labels: IntArray, batch_size: int, *, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> list[list[Visit]]:
    """Every class as often, in random order, in an epoch of about as many images as there are; divided as above.

    The images of a class come in one random permutation after the other, each taken up in the next epoch where this
    one left it: over epochs they come equally often, and how often an image came before is known by the permutation.

    Args:
        labels: of each position, [n].
        batch_size: of each process.
        seed: of the run.
        epoch: which one.
        rank: of this process.
        world_size: how many there are.

    Returns:
        The batches of this process.
    """
    classes = np.unique(labels).tolist()
    share = max(1, round(len(labels) / len(classes)))  # images of each class
    visits: list[Visit] = []
    for label in classes:
        members = np.flatnonzero(labels == label)
        turns = np.arange(epoch * share, (epoch + 1) * share)
        for visit in range(turns[0] // len(members), turns[-1] // len(members) + 1):
            order = np.random.default_rng([seed, visit, label, 14]).permutation(members)
            places = turns[turns // len(members) == visit] % len(members)
            visits += [(visit, position) for position in order[places].tolist()]
    order = np.random.default_rng([seed, epoch, 15]).permutation(len(visits))
    return _in_batches([visits[i] for i in order.tolist()], batch_size, rank, world_size)


def batch_shape(identities: int, batch_size: int, images_per_identity: int, world_size: int = 1) -> tuple[int, int]:
    """Identities and images of each that fill a process's batch: P as large as K allows, then K as large as fits."""
    count = max(2, min(identities // world_size, batch_size // images_per_identity))
    return count, max(2, batch_size // count)


def identity_batches(
    labels: IntArray, identities: int, images: int, *, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> Batches:
    """Batches of `identities` different identities with up to `images` different images of each.

    Several processes have different identities at any time; these are those of process `rank`.
    Every image comes at least once. An identity's last chunk is filled up with other images of its own; one
    with fewer than `images` images gives what it has, since a twin of itself would teach nothing.
    """
    together = identities * world_size
    rng = np.random.default_rng([seed, epoch, 4])
    waiting: dict[int, Batches] = {}
    for label in np.unique(labels).tolist():
        order = rng.permutation(np.flatnonzero(labels == label)).tolist()
        chunks = [order[start : start + images] for start in range(0, len(order), images)]
        chunks[-1] = (chunks[-1] + order)[:images] if len(order) >= images else chunks[-1]
        waiting[label] = chunks
    spare = {label: chunks[0] for label, chunks in waiting.items()}
    # the identities with most left come first, so that the last batches do not run out of identities
    heap = [(-len(chunks), rng.random(), label) for label, chunks in waiting.items()]
    heapq.heapify(heap)
    batches: Batches = []
    while heap:
        chosen = [heapq.heappop(heap)[2] for _ in range(min(together, len(heap)))]
        chunks = [waiting[label].pop() for label in chosen]
        if len(chosen) < together:
            others = sorted(spare.keys() - set(chosen))
            chunks += [spare[label] for label in rng.permutation(others).tolist()[: together - len(chosen)]]
        batches.append([position for chunk in _part_of(chunks, rank, world_size) for position in chunk])
        for label in chosen:
            if waiting[label]:
                heapq.heappush(heap, (-len(waiting[label]), rng.random(), label))
    return [batches[i] for i in rng.permutation(len(batches)).tolist()]


def grouped_batches(
    labels: IntArray,
    groups: IntArray,
    identities: int,
    images: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> Batches:
    """The batches of `identity_batches`, each of identities of one group: those that are hard to tell apart.

    `groups` has the group of each image; every one of them needs two identities for each process.
    """
    batches: Batches = []
    for i, group in enumerate(np.unique(groups).tolist()):
        members = np.flatnonzero(groups == group)
        order = {"seed": seed + 1000 * i, "epoch": epoch, "rank": rank, "world_size": world_size}
        found = identity_batches(labels[members], identities, images, **order)
        batches += [members[batch].tolist() for batch in found]
    return [batches[i] for i in np.random.default_rng([seed, epoch, 11]).permutation(len(batches)).tolist()]


def pair_batches(
    first: IntArray,
    second: IntArray,
    is_same: IntArray,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> Batches:
    """Each pair once, in random order with same and different ones mixed evenly; of each batch the images.

    A batch has up to `batch_size` images in each process, at least two.
    """
    rng = np.random.default_rng([seed, epoch, 9])
    place = np.empty(len(is_same))
    for kind in (0, 1):
        members = np.flatnonzero(is_same == kind)
        place[rng.permutation(members)] = (np.arange(len(members)) + rng.random(len(members))) / max(len(members), 1)
    batches: Batches = [[]]
    for pair in np.argsort(place).tolist():
        images = [first[pair].item(), second[pair].item()]
        fresh = [image for image in images if image not in batches[-1]]
        if len(batches[-1]) + len(fresh) > batch_size * world_size:
            batches.append(images)
        else:
            batches[-1].extend(fresh)
    if len(batches) > 1 and len(batches[-1]) < 2 * world_size:
        last = batches.pop()
        batches[-1].extend(image for image in last if image not in batches[-1])
    return [_part_of(batch, rank, world_size) for batch in batches]


def _in_batches(items: list[T], batch_size: int, rank: int, world_size: int) -> list[list[T]]:
    """The items in their order, and of each batch what the process of this rank has."""
    size = batch_size * world_size
    batches = [items[start : start + size] for start in range(0, len(items), size)]
    if len(batches) > 1 and len(batches[-1]) < 2 * world_size:
        batches[-2].extend(batches.pop())
    return [_part_of(batch, rank, world_size) for batch in batches]


def _part_of(items: list[T], rank: int, world_size: int) -> list[T]:
    """What the process of this rank has of the items, in their order; the parts differ by one at most."""
    edges = [len(items) * i // world_size for i in range(world_size + 1)]
    return items[edges[rank] : edges[rank + 1]]
