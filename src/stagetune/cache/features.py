"""What is stored: what the frozen prefix of a backbone gives for each image, and images, decoded."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from stagetune.data.datamodule import Batch, Images
from stagetune.data.samplers import Key
from stagetune.data.source import Source
from stagetune.data.transforms import prepare


class Features:
    """Batches of stored outputs of the first `depth` blocks; rows [views x images, ...], maps as [h, w, channels]."""

    def __init__(self, table: Tensor, images: Images, depth: int) -> None:
        self.table, self.images, self.depth = table, images, depth
        self._target = torch.from_numpy(images.source.labels[images.indices])
        self._index = torch.from_numpy(images.indices)

    def __call__(self, keys: list[Key]) -> Batch:
        count = len(self.images)
        positions = torch.tensor([position for _, position in keys])
        rows = torch.tensor([self.images.view(epoch) * count + position for epoch, position in keys])
        found = self.table.index_select(0, rows.to(self.table.device))
        return Batch(self._index[positions], from_rows(found), self.depth, self._target[positions])


def compute(
    backbone: nn.Module,
    images: Images,
    depths: Sequence[int],
    *,
    begin: tuple[int, Tensor] | None = None,
    rows: range,
    batch_size: int,
    device: torch.device,
    precision: Callable[[], AbstractContextManager[object]],
) -> Mapping[int, Tensor]:
    """The outputs of the first blocks at each of `depths` (rising), for `rows` of views x images.

    `begin` is a depth that is stored already and its table, from which computing goes on; None means pixels.
    """
    tables: dict[int, Tensor] = {}
    for first in range(rows.start, rows.stop, batch_size):
        chosen = range(first, min(first + batch_size, rows.stop))
        if begin is None:
            keys = [divmod(row, len(images)) for row in chosen]
            reached, hidden = 0, images[keys].inputs
        else:
            reached, hidden = begin[0], from_rows(begin[1][chosen.start : chosen.stop])
        hidden = hidden.to(device)
        with torch.inference_mode(), precision():
            for depth in depths:
                hidden = backbone.forward(hidden, start=reached, stop=depth)  # never compiled: it is one pass
                reached = depth
                part = to_rows(hidden)
                if depth not in tables:
                    with torch.inference_mode(False):
                        tables[depth] = torch.empty((len(rows), *part.shape[1:]), dtype=part.dtype)
                tables[depth][first - rows.start : first - rows.start + len(part)] = part.cpu()
    return tables


def decode(source: Source, size: int) -> Tensor:
    """All images of a source, decoded and resized, uint8 [images, 3, size, size]; files are read in parallel."""
    table = torch.empty((len(source), 3, size, size), dtype=torch.uint8)

    def fill(i: int) -> None:
        table[i] = prepare(source.image(i), size)

    with ThreadPoolExecutor() as threads:
        list(threads.map(fill, range(len(source))))
    return table


def to_rows(hidden: Tensor) -> Tensor:
    """Maps [n, c, h, w] as [n, h, w, c], so that a gathered batch is channels_last; features as they are."""
    return hidden.permute(0, 2, 3, 1).contiguous() if hidden.ndim == 4 else hidden


def from_rows(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows
