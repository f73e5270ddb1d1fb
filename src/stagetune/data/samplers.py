"""In which order images come: pure functions of (seed, epoch)."""

import heapq
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from stagetune.data.source import IntArray

Key = tuple[int, int]  # epoch, position within the split: all that an augmented image depends on, beside the seed
Batches = list[list[int]]


class EpochBatches(Sampler[list[Key]]):
    """Yields a batch at a time as keys; `draw` gives the batches of an epoch, Lightning says which epoch."""

    def __init__(self, draw: Callable[[int], Batches]) -> None:
        self._draw = lru_cache(maxsize=1)(draw)
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self._epoch
        return iter([[(epoch, position) for position in batch] for batch in self._draw(epoch)])

    def __len__(self) -> int:
        return len(self._draw(self._epoch))


def shuffled_batches(count: int, batch_size: int, *, seed: int, epoch: int) -> Batches:
    """Every position once, in random order; a last batch of one joins the batch before it (BatchNorm)."""
    order = np.random.default_rng([seed, epoch, 3]).permutation(count).tolist()
    batches = [order[start : start + batch_size] for start in range(0, count, batch_size)]
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2].extend(batches.pop())
    return batches


def batch_shape(identities: int, batch_size: int, images_per_identity: int) -> tuple[int, int]:
    """Identities and images of each that fill a batch: P as large as K allows, then K as large as fits."""
    count = max(2, min(identities, batch_size // images_per_identity))
    return count, max(2, batch_size // count)


def identity_batches(labels: IntArray, identities: int, images: int, *, seed: int, epoch: int) -> Batches:
    """Batches of `identities` different identities with up to `images` different images of each.

    Every image comes at least once. An identity's last chunk is filled up with other images of its own; one
    with fewer than `images` images gives what it has, since a twin of itself would teach nothing.
    """
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
        chosen = [heapq.heappop(heap)[2] for _ in range(min(identities, len(heap)))]
        chunks = [waiting[label].pop() for label in chosen]
        if len(chosen) < identities:
            others = sorted(spare.keys() - set(chosen))
            chunks += [spare[label] for label in rng.permutation(others).tolist()[: identities - len(chosen)]]
        batches.append([position for chunk in chunks for position in chunk])
        for label in chosen:
            if waiting[label]:
                heapq.heappush(heap, (-len(waiting[label]), rng.random(), label))
    return [batches[i] for i in rng.permutation(len(batches)).tolist()]
