"""What is stored: what the frozen prefix of a backbone gives for each image, and images, decoded."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from stagetune.data.datamodule import Batch, Images
from stagetune.data.samplers import Key


class Features:
    """Batches of stored outputs of the first `depth` blocks; rows [views x images, ...], maps as [h, w, channels].

    `dtype` is that of the outputs as they were computed. A table `is_far` if it is not in the memory of `device`, or
    not in memory at all: its batches are read one ahead.
    """

    def __init__(
        self, table: Tensor, images: Images, depth: int, dtype: torch.dtype, *, device: torch.device, is_far: bool
    ) -> None:
        self.table, self.images, self.depth, self.dtype = table, images, depth, dtype
        self.is_far, self.is_pinned = is_far, is_far and device.type == "cuda"
        self._target = torch.from_numpy(images.source.labels[images.indices])
        self._index = torch.from_numpy(images.indices)

    def __call__(self, batches: Iterable[list[Key]]) -> Iterator[Batch]:
        read = map(self.batch, batches)
        return _one_ahead(read) if self.is_far else read

    def batch(self, keys: list[Key]) -> Batch:
        views, positions = torch.tensor(keys).unbind(dim=1)
        rows = views * len(self.images) + positions
        found = self.table.index_select(0, rows.to(self.table.device)).to(self.dtype)
        batch = Batch(self._index[positions], from_rows(found), self.depth, self._target[positions])
        return batch.pin_memory() if self.is_pinned else batch


def _one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each read while the one before it is worked on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def outputs(
    backbone: nn.Module,
    inputs: Tensor,
    depths: Sequence[int],
    *,
    start: int = 0,
    precision: Callable[[], AbstractContextManager[object]],
) -> dict[int, Tensor]:
    """What a batch is at each of `depths` (rising), as rows; the inputs already went through `start` blocks."""
    found: dict[int, Tensor] = {}
    hidden = inputs
    with torch.inference_mode(), precision(), _measured(backbone):
        for depth in depths:
            hidden = backbone.forward(hidden, start=start, stop=depth)  # never compiled: it is one pass
            start, found[depth] = depth, to_rows(hidden)
    return found


@contextmanager
def _measured(backbone: nn.Module) -> Iterator[None]:
    """While this lasts all of it is in eval mode, also the code between its layers; random numbers are put back."""
    modes = [(module, module.training) for module in backbone.modules()]
    device = next((parameter.device for parameter in backbone.parameters()), torch.device("cpu"))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        backbone.eval()
        try:
            yield
        finally:
            backbone.train(modes[0][1])
            for module, mode in modes:
                module.training = mode


def rows_of_rank(total: int, batch_size: int, rank: int, world_size: int) -> Iterator[tuple[range, list[int]]]:
    """All rows in order, so many for each process at a time, and those of them that this process computes.

    What all processes compute, in their order, begins with the rows of the range; the last may be too many.
    """
    for first in range(0, total, batch_size * world_size):
        rows = range(first, min(first + batch_size * world_size, total))
        own = -(-len(rows) // world_size)
        yield rows, [min(first + rank * own + i, total - 1) for i in range(own)]


def decode(images: Images, table: Tensor, *, take: Callable[[str], Tensor | None]) -> Iterator[bool]:
    """Fill `table`, uint8 [images, 3, size, size], with all images of their source, decoded and resized.

    Files are read in parallel. `take` gives a row by the content of its image where it is there already; what is
    yielded is, row by row, whether it was not.
    """

    def fill(i: int) -> bool:
        row = take(images.source.contents[i])
        table[i] = images.prepared(i) if row is None else row
        return row is None

    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from threads.map(fill, range(len(images.source)))
    finally:
        threads.shutdown(cancel_futures=True)


def to_rows(hidden: Tensor) -> Tensor:
    """Maps [n, c, h, w] as [n, h, w, c], so that a gathered batch is channels_last; features as they are."""
    return hidden.permute(0, 2, 3, 1).contiguous() if hidden.ndim == 4 else hidden


def from_rows(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
