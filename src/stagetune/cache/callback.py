"""`FeatureCaching`: at the start of each stage its frozen prefix is looked up or computed, and served."""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from stagetune.artifacts import stored_json, write_text
from stagetune.cache.features import Features
from stagetune.cache.store import Store
from stagetune.cache.tables import Tables
from stagetune.config.schema import CacheConfig
from stagetune.data.datamodule import TESTED, StagedData
from stagetune.errors import ResultError
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage

AFTER = "after training"  # in place of a stage's name
TRIALS, TRIAL_IMAGES = 3, 16
CLEARLY = 10  # times as fast: one trial is enough


class FeatureCaching(Callback):
    """Serves the outputs of a stage's frozen prefix instead of images: in validation, in the test, and, where images
    come the same again, in training.

    What was decided is kept in `record`, a file, so that a resumed run decides the same: reading and computing
    differ in the last bits.
    """

    def __init__(
        self, unfreezing: StagedUnfreezing, data: StagedData, store: Store, config: CacheConfig, record: Path
    ) -> None:
        self.unfreezing, self.data, self.store, self.config, self.record = unfreezing, data, store, config, record
        self.decided: dict[str, dict[str, Any]] = _kept(record) if record.exists() else {}
        self.seconds = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.unfreezing.is_within_stage:  # a run that goes on
            self._begin(trainer, self.unfreezing.stage)

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        self._begin(trainer, stage)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.data.served.clear()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # what was never opened is the same in every checkpoint, and in every run of a sweep
        stages = self.unfreezing.plan.stages[: len(self.unfreezing.stage_starts)]
        self._serve_parts(list(TESTED), AFTER, [min(stage.frozen_prefix for stage in stages)], trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.data.served.clear()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.data.served.clear()

    def of_stage(self, name: str) -> dict[str, Any]:
        """What was decided for a stage, by part of the data."""
        return {
            key.rpartition("/")[2]: value for key, value in self.decided.items() if key.rpartition("/")[0] == name
        }

    def _begin(self, trainer: Trainer, stage: PlannedStage) -> None:
        depths, frozen = [], len(self.unfreezing.plan.blocks)
        for later in self.unfreezing.plan.stages[stage.index :]:
            frozen = min(frozen, later.frozen_prefix)
            depths.append(frozen)
        self._serve_parts(["val", "train"], stage.name, depths, trainer)

    def _serve_parts(self, parts: list[str], stage: str, depths: list[int], trainer: Trainer) -> None:
        """Serve outputs at the first of `depths`, or before it where the backbone cannot begin there.

        The others are for later.
        """
        start = time.monotonic()
        self.data.served.clear()
        tables = Tables(self.data, self.store, self.config, trainer)
        depths = [max(start for start in tables.backbone.starts if start <= depth) for depth in depths]
        depth, depths = depths[0], sorted({depth for depth in depths if depth})
        if self.config.features == "auto" and depth:
            for part in parts:
                if self.data.repeats(part):
                    self._serve(part, f"{stage}/{part}", depth, depths, tables)
        self.seconds += time.monotonic() - start

    def _serve(self, part: str, name: str, depth: int, depths: list[int], tables: Tables) -> None:
        known = self.decided.get(name)
        if known is not None and known["depth"] == depth:
            features = tables.features(part, depth, depths) if known["used"] else None
        else:
            decision = tables.trainer.strategy.broadcast(self._try(part, depth, tables))
            features = tables.features(part, depth, depths) if decision["used"] else None
            if decision["used"] and (features is None or not self._is_fast(features, decision, tables.trainer)):
                decision["used"], features = False, None
            self.decided[name] = decision
            if tables.trainer.is_global_zero:
                write_text(self.record, json.dumps(self.decided, indent=2))
        if features is not None:
            self.data.served[part] = features

    def _try(self, part: str, depth: int, tables: Tables) -> dict[str, Any]:
        """Time a few images both ways, and look whether the table may be made."""
        images = self.data.parts[part]
        positions = list(range(min(TRIAL_IMAGES, self.data.batch_size, len(images))))
        read, computed = [], []
        for _ in range(TRIALS):
            start = time.perf_counter()
            rows = tables.trial(part, depth, positions).cpu()
            computed.append(time.perf_counter() - start)
            features = tables.of(tables.kept(rows), images, depth, rows.dtype)
            start = time.perf_counter()
            features.batch([(0, position) for position in positions])
            read.append(time.perf_counter() - start)
            if CLEARLY * min(read) < min(computed):
                break
        fits = self.store.fits(tables.kept(rows)[0].nbytes * len(images) * images.distinct_views)
        return {
            "depth": depth,
            "images": len(positions),
            "read_ms": round(1000 * min(read), 3),
            "compute_ms": round(1000 * min(computed), 3),
            "used": fits and min(read) < min(computed),
        }

    def _is_fast(self, features: Features, decision: dict[str, Any], trainer: Trainer) -> bool:
        """Whether reading from the table itself is faster, too: it may be in a file on a slow disk."""
        step = max(1, len(features.images) // decision["images"])
        start = time.perf_counter()
        features.batch([(0, step * i) for i in range(decision["images"])])
        decision["read_ms"] = max(decision["read_ms"], round(1000 * (time.perf_counter() - start), 3))
        return bool(trainer.strategy.broadcast(decision["read_ms"] < decision["compute_ms"]))


def _kept(record: Path) -> dict[str, dict[str, Any]]:
    """What was decided before; raises `ResultError` for a file that does not say it."""
    try:
        kept: dict[str, dict[str, Any]] = stored_json(record)
        if all(isinstance(one["depth"], int) and isinstance(one["used"], bool) for one in kept.values()):
            return kept
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ResultError(f"{record} is damaged; remove it, and whether the feature cache is used is decided anew")
