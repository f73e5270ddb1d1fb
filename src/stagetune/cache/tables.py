"""Tables of what a frozen prefix gives for each image of a part of the data: found, or made by all processes."""

import json
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from stagetune.cache.features import Features, from_rows, outputs, rows_of_rank
from stagetune.cache.key import images_key, prefix_key, weights_key
from stagetune.cache.store import GB, Store
from stagetune.config.schema import CacheConfig
from stagetune.data.datamodule import Images, StagedData
from stagetune.data.gather import gather_rows

PASS_BATCHES = 2  # a batch without backward may be so many times as large
GPU_PASS_IMAGES = 128  # and is no smaller than this, so that a GPU has enough to do
DTYPES = {"auto": None, "bf16": torch.bfloat16}


class Tables:
    """The feature cache as seen by a trainer: its model's backbone, its precision, its processes."""

    def __init__(self, data: StagedData, store: Store, config: CacheConfig, trainer: Trainer) -> None:
        self.data, self.store, self.config, self.trainer = data, store, config, trainer
        self.backbone: Any = trainer.lightning_module.backbone
        self.device = trainer.lightning_module.device
        self._prefixes: dict[int, str] = {}  # their keys, by depth

    def features(self, part: str, depth: int, depths: list[int]) -> Features | None:
        """The features of that depth, found or made; None if they cannot be kept by all processes.

        Those at the other `depths`, which later stages will read, are made where they fit and cost no further pass.
        """
        images, strategy = self.data.parts[part], self.trainer.strategy
        total = len(images) * images.distinct_views
        places = sorted({0, total // 2, total - 1})
        depths = [d for d in depths if d <= depth]
        keys = {d: self._key(images, d) for d in depths}
        with self.store.lock(keys[depth]):
            strategy.barrier()  # the others wait for the process that waits for the lock
            rows = self.outputs(images[[divmod(place, len(images)) for place in places]].inputs, depths)
            found = {d: self.store.get(key) for d, key in keys.items()}
            # a network of one's own may have changed in ways that its weights do not show
            held = {d: _holds(found[d], total, places, self.kept(made)) for d, made in rows.items()}
            valid = {d: strategy.reduce_boolean_decision(held[d]) for d in depths}
            if not valid[depth]:
                begin = max((d for d in depths if valid[d]), default=0)
                inputs = (found[begin], rows[begin].dtype) if begin else None
                wanted = {d: (keys[d], self.kept(made[:1])) for d, made in rows.items() if d > begin}
                self._make(part, depth, wanted, begin, inputs)
                strategy.barrier()  # until the files are there
                found[depth] = self.store.get(keys[depth])
        table = found[depth]
        if not strategy.reduce_boolean_decision(table is not None):
            return None
        assert table is not None
        return self.of(table, images, depth, rows[depth].dtype)

    def trial(self, part: str, depth: int, positions: list[int]) -> Tensor:
        """The outputs for some images, computed from pixels."""
        return self.outputs(self.data.parts[part][[(0, position) for position in positions]].inputs, [depth])[depth]

    def _make(
        self,
        part: str,
        depth: int,
        wanted: dict[int, tuple[str, Tensor]],
        start: int,
        stored: tuple[Tensor | None, torch.dtype] | None,
    ) -> None:
        """Compute the `wanted` tables, of which key and first row are given, in one pass.

        It begins with pixels or, where there is one, with a table of depth `start`. Each process computes its part;
        a table that is larger than memory has one file, which the first process writes.
        """
        images = self.data.parts[part]
        total = len(images) * images.distinct_views
        tables: dict[int, Tensor | None] = {}
        for d, (key, row) in wanted.items():
            fits = d == depth or self.store.fits(row.nbytes * total)
            table = self.store.new(key, [total, *row.shape[1:]], row.dtype) if fits else None
            if self.trainer.strategy.broadcast(table is not None):  # by the process that writes
                tables[d] = table
        if depth not in tables:
            return
        batch = max(PASS_BATCHES * self.data.batch_size, GPU_PASS_IMAGES if self.device.type == "cuda" else 0)
        chunks = list(rows_of_rank(total, batch, self.data.rank, self.data.world_size))
        inputs: Iterable[Tensor]
        if stored is None:
            inputs = (batch.inputs for batch in self.data.in_order(part, [own for _, own in chunks]))
        else:
            begun, dtype = stored
            assert begun is not None
            inputs = (from_rows(begun[own]).to(dtype) for _, own in chunks)
        for (rows, _), hidden in zip(chunks, inputs, strict=True):
            for d, made in self.outputs(hidden, list(tables), start).items():
                gathered = gather_rows(self.trainer.lightning_module, self.kept(made))
                if (table := tables[d]) is not None:
                    table[rows.start : rows.stop] = gathered[: len(rows)].cpu()
        for d, table in tables.items():
            if table is not None:
                self.store.put(wanted[d][0], table)

    def outputs(self, inputs: Tensor, depths: list[int], start: int = 0) -> dict[int, Tensor]:
        precision = self.trainer.precision_plugin.forward_context
        return outputs(self.backbone, inputs.to(self.device), depths, start=start, precision=precision)

    def of(self, table: Tensor, images: Images, depth: int, dtype: torch.dtype) -> Features:
        """A table as batches, from the device's memory if it fits there."""
        served = [serve.table for serve in self.data.served.values() if isinstance(serve, Features)]
        on_device = sum(other.nbytes for other in served if other.device.type == "cuda")
        if self.device.type == "cuda" and on_device + table.nbytes <= self.config.device_gb * GB:
            table = table.to(self.device)
        is_far = table.device.type != self.device.type or table.nbytes > self.config.memory_gb * GB
        return Features(table, images, depth, dtype, device=self.device, is_far=is_far)

    def kept(self, rows: Tensor) -> Tensor:
        """Rows as they are stored."""
        return rows.to(DTYPES[self.config.dtype] or rows.dtype)

    def _key(self, images: Images, depth: int) -> str:
        if depth not in self._prefixes:
            self._prefixes[depth] = weights_key(_prefix(self.backbone, depth))
        contents = (images.source.contents[i] for i in images.indices.tolist())
        source = images_key(contents, images.size, images.interpolation, images.resize, str(images.scale))
        how = {
            "augmentation": images.views_key,
            "views": images.distinct_views,
            "network": self.backbone.network_key,
            "normal": self.backbone.normal,
            "precision": [self.trainer.precision, torch.get_float32_matmul_precision(), self.config.dtype],
            "device": self.device.type,
            "depth": depth,
        }
        return prefix_key(source, self._prefixes[depth], how=json.dumps(how))


def _prefix(backbone: Any, depth: int) -> list[nn.Module | Tensor]:
    """What the first `depth` blocks consist of, with the buffers that no block has."""
    if depth == len(backbone.blocks):
        return [backbone]  # whose repr says how features are pooled
    parts = {**dict(backbone.named_modules()), **dict(backbone.named_parameters())}
    names = [name for block in backbone.blocks.values() for name in block]
    inside = [name for block in list(backbone.blocks.values())[:depth] for name in block]
    loose = [
        value
        for name, value in backbone.named_buffers()
        if not any(name == own or name.startswith(f"{own}.") for own in names)
    ]
    return [*(parts[name] for name in inside), *loose]


def _holds(table: Tensor | None, total: int, places: list[int], rows: Tensor) -> bool:
    """Whether the table has, at those places, the rows that are computed now, but for rounding in another batch."""
    rows = rows.cpu()
    if table is None or table.shape != (total, *rows.shape[1:]) or table.dtype != rows.dtype:
        return False
    stored, rows = table[places].float().flatten(1), rows.float().flatten(1)
    tolerance = 1e-3 if table.dtype == torch.float32 else 0.03
    return bool(((stored - rows).norm(dim=1) <= tolerance * rows.norm(dim=1) + 1e-6).all())
