"""`FeatureCaching`: at the start of each stage its frozen prefix is looked up or computed, and served."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from stagetune.cache.features import Features, compute
from stagetune.cache.key import images_key, prefix_key
from stagetune.cache.store import GB, Store
from stagetune.config.schema import CacheConfig
from stagetune.data.datamodule import Images, StagedData
from stagetune.data.gather import gather_rows
from stagetune.data.samplers import Key
from stagetune.schedule.callback import StagedUnfreezing

TRIALS = 3
PASS_BATCHES = 2  # a batch without backward may be so many times as large


class FeatureCaching(Callback):
    """Serves the outputs of a stage's frozen prefix instead of images, in validation and, where images come the same
    again, in training.

    What was decided is kept in `record`, a file, so that a resumed run decides the same: reading and computing
    differ in the last bits.
    """

    def __init__(
        self, unfreezing: StagedUnfreezing, data: StagedData, store: Store, config: CacheConfig, record: Path
    ) -> None:
        self.unfreezing, self.data, self.store, self.config, self.record = unfreezing, data, store, config, record
        self.decided: dict[str, dict[str, Any]] = json.loads(record.read_text()) if record.exists() else {}
        self.seconds = 0.0
        self._begun: int | None = None  # the stage that is served

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.unfreezing.stage.index != self._begun:
            self._begin(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.data.served.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.data.served.clear()

    def _begin(self, trainer: Trainer, pl_module: LightningModule) -> None:
        began = time.monotonic()
        self.data.served.clear()
        self._begun = self.unfreezing.stage.index
        if self.config.features == "auto":
            for part in ("val", "train"):
                self._serve(part, trainer, pl_module)
        self.seconds += time.monotonic() - began

    def of_stage(self, name: str) -> dict[str, Any]:
        """What was decided for a stage, by part of the data."""
        return {
            key.rpartition("/")[2]: value for key, value in self.decided.items() if key.rpartition("/")[0] == name
        }

    def _depths(self, pl_module: LightningModule) -> list[int]:
        """The depths that this stage, and those behind it, can read from; rising."""
        frozen = len(self.unfreezing.plan.blocks)
        depths = set()
        for stage in self.unfreezing.plan.stages[self.unfreezing.stage.index :]:
            frozen = min(frozen, stage.frozen_prefix)
            depths.add(frozen)
        starts = pl_module.get_submodule("backbone").starts
        return sorted(depth for depth in depths if depth and depth in starts)  # type: ignore[operator]

    def _serve(self, part: str, trainer: Trainer, pl_module: LightningModule) -> None:
        images, depth = self.data.parts[part], self.unfreezing.stage.frozen_prefix
        depths = [d for d in self._depths(pl_module) if d <= depth]
        if depth not in depths or not images.distinct_views:
            return
        name = f"{self.unfreezing.stage.name}/{part}"
        if self.decided.get(name, {}).get("depth") != depth:
            decision = self._decide(images, depth, trainer, pl_module)
            self.decided[name] = trainer.strategy.broadcast(decision)
            if trainer.is_global_zero:
                draft = self.record.with_suffix(".tmp")
                draft.write_text(json.dumps(self.decided, indent=2))
                os.replace(draft, self.record)
        if self.decided[name]["used"]:
            table = self._table(images, depth, depths, trainer, pl_module)
            self.data.served[part] = self._features(table, images, depth, pl_module.device)

    def _decide(self, images: Images, depth: int, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Time a batch both ways, and look whether the table fits."""
        rows = range(min(self.data.batch_size, len(images)))
        keys: list[Key] = [(0, position) for position in rows]
        read, computed = [], []
        for _ in range(TRIALS):
            began = time.perf_counter()
            table = self._compute(images, [depth], None, rows, trainer, pl_module)[depth]
            computed.append(time.perf_counter() - began)
            features = self._features(table, images, depth, pl_module.device)
            began = time.perf_counter()
            features(keys)
            read.append(time.perf_counter() - began)
        fits = self.store.fits(table[0].nbytes * len(images) * images.distinct_views)
        return {
            "depth": depth,
            "read_ms": round(1000 * min(read), 3),
            "compute_ms": round(1000 * min(computed), 3),
            "used": fits and min(read) < min(computed),
        }

    def _table(
        self, images: Images, depth: int, depths: list[int], trainer: Trainer, pl_module: LightningModule
    ) -> Tensor:
        """The table of the stage's depth; those that later stages will want are computed in the same pass."""
        keys = {d: self._key(images, d, trainer, pl_module) for d in depths}
        with self.store.lock(keys[depth]):
            trainer.strategy.barrier()  # the others wait for the process that waits for the lock
            found = {d: self.store.get(key) for d, key in keys.items()}
            agree = trainer.strategy.reduce_boolean_decision
            # a network of one's own may have changed in ways that its weights do not show
            first = self._compute(images, depths, None, range(1), trainer, pl_module)
            known = {
                d: table for d, table in found.items() if agree(_begins_with(table, first[d])) and table is not None
            }
            if depth in known:
                return known[depth]
            begin = max(known.items(), default=None)
            total = len(images) * images.distinct_views
            wanted = [d for d, row in first.items() if d == depth or self.store.fits(row.nbytes * total)]
            wanted = [d for d in wanted if begin is None or d > begin[0]]
            share, processes = self.data.share
            rows = range(total * share // processes, total * (share + 1) // processes)
            made = self._compute(images, wanted, begin, rows, trainer, pl_module)
            return {d: self.store.put(keys[d], gather_rows(pl_module, table)) for d, table in made.items()}[depth]

    def _compute(
        self,
        images: Images,
        depths: list[int],
        begin: tuple[int, Tensor] | None,
        rows: range,
        trainer: Trainer,
        pl_module: LightningModule,
    ) -> Mapping[int, Tensor]:
        return compute(
            pl_module.get_submodule("backbone"),
            images,
            depths,
            begin=begin,
            rows=rows,
            batch_size=PASS_BATCHES * self.data.batch_size,
            device=pl_module.device,
            precision=trainer.precision_plugin.forward_context,
        )

    def _features(self, table: Tensor, images: Images, depth: int, device: torch.device) -> Features:
        if device.type == "cuda" and table.nbytes <= self.config.device_gb * GB:
            table = table.to(device)
        return Features(table, images, depth)

    def _key(self, images: Images, depth: int, trainer: Trainer, pl_module: LightningModule) -> str:
        backbone: Any = pl_module.get_submodule("backbone")
        layers = dict(backbone.named_modules())
        names = [name for block in list(backbone.blocks.values())[:depth] for name in block]
        prefix = [layers[name] for name in names] if depth < len(backbone.blocks) else [backbone]
        source = images_key((images.source.contents[i] for i in images.indices.tolist()), images.size)
        seed = images.seed if images.augment != "none" else None
        how = [
            images.augment,
            images.distinct_views,
            seed,
            backbone.normal,
            trainer.precision,
            str(pl_module.device.type),
            depth,
        ]
        return prefix_key(source, prefix, how=json.dumps(how))


def _begins_with(table: Tensor | None, row: Tensor) -> bool:
    """Whether the table's first row is the one that is computed now, but for rounding in another batch."""
    if table is None or table[:1].shape != row.shape or table.dtype != row.dtype:
        return False
    tolerance = 1e-3 if row.dtype == torch.float32 else 0.03
    return bool((table[:1].float() - row.float()).norm() <= tolerance * row.float().norm() + 1e-6)
