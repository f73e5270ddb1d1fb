"""What the untouched features are worth, measured as the head's stage begins and said beside what training makes."""

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng

from stagetune.cache.store import Store
from stagetune.cache.tables import Tables
from stagetune.config.schema import CacheConfig
from stagetune.data.datamodule import StagedData
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.probe import Features, linear_probe, verification_probe
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage
from stagetune.tasks.siamese import SiameseTask, given_pairs
from stagetune.tasks.staged_task import StagedTask

MOST = 300_000_000  # images x features x classes of a fit: up to about a minute on one core


class Probe(Callback):
    """Measures the features that training begins with, where the first stage trains the head alone.

    Those of a classifier by a logistic regression on the training images without augmentation, those of a siamese
    task by the cosine of pairs that are drawn as validation draws them. They come from the feature cache's tables, so
    that the runs of a sweep compute them once. Nothing of the run depends on it: random states are what they were.
    It travels in the checkpoint, since a run that goes on may no longer have the untouched features.

    Args:
        unfreezing: whose plan says what the first stage trains.
        data: the images.
        store: the tables of the feature cache.
        config: that of the cache; with `features: off` there is no probe.
        say: is told the outcome, or why there is none.
    """

    def __init__(
        self,
        unfreezing: StagedUnfreezing,
        data: StagedData,
        store: Store,
        config: CacheConfig,
        say: Callable[[str], None],
    ) -> None:
        self.unfreezing, self.data, self.store, self.config, self.say = unfreezing, data, store, config, say
        self.found: dict[str, Any] = {}
        self.seconds = 0.0  # in this process

    def state_dict(self) -> dict[str, Any]:
        return {"found": self.found}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.found = state_dict["found"]

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        if stage.index or stage.frozen_prefix < len(self.unfreezing.plan.blocks):
            return
        assert isinstance(pl_module, StagedTask)
        start = time.monotonic()
        with isolate_rng():  # a loader draws a seed for its processes
            reason = self._reason_against(trainer, pl_module)
            self.found = {"left_out": reason} if reason else self._measured(trainer, pl_module)
        self.seconds += time.monotonic() - start
        self.say(probe_words(self.found))

    def _reason_against(self, trainer: Trainer, task: StagedTask) -> str | None:
        """Why it would not be worth its time; the same in all processes."""
        if self.config.features == "off":
            return "its features would come from the cache, which is off (cache=auto)"
        parts = self.data.parts
        computed = len(parts["test"])
        if not isinstance(task, SiameseTask):
            images, width, classes = len(parts["plain"]), task.backbone.out_features, len(self.data.source.classes)
            if images * width * classes > MOST:
                return f"{images:,} images x {width:,} features x {classes:,} classes are too many for its regression"
            is_read = parts["plain"] is parts["train"] and self.data.repeats("train")  # in training, too
            computed += 0 if is_read else images
        batches = int(trainer.num_training_batches)
        steps = sum(stage.length(lambda _: batches).steps for stage in self.unfreezing.plan.stages)
        trained = steps * self.data.train_batch_size * self.data.world_size
        if computed > trained:
            return f"it would compute {computed:,} images, and training only {trained:,}"
        return None

    def _measured(self, trainer: Trainer, task: StagedTask) -> dict[str, Any]:
        """By the process with rank 0, while the others wait for what it finds."""
        is_siamese, depth = isinstance(task, SiameseTask), len(self.unfreezing.plan.blocks)
        tables = Tables(self.data, self.store, self.config, trainer)
        parts: dict[str, Features] = {}
        for part in ("val", "test") if is_siamese else ("plain", "val", "test"):
            images, made = self.data.parts[part], tables.features(part, depth, [depth])
            if made is None:
                return {"left_out": "its features do not fit into the cache (cache.memory_gb, cache.disk_gb)"}
            parts[part] = Features(made.table.double().cpu().numpy(), images.source.labels[images.indices])
        found: dict[str, Any] = {}
        if trainer.is_global_zero:
            try:
                found = (
                    self._verified(task, parts) if isinstance(task, SiameseTask) else linear_probe(*parts.values())
                )
            except ValueError as error:
                found = {"left_out": str(error)}
        return trainer.strategy.broadcast(found)

    def _verified(self, task: SiameseTask, parts: dict[str, Features]) -> dict[str, Any]:
        """The area under the curve of each part, over pairs drawn as validation draws them, or given ones."""
        found: dict[str, Any] = {"features": parts["val"].values.shape[1]}
        for part, features in parts.items():
            if task.pairs is None:
                first, second = evaluation_pairs(features.labels, task.eval_pairs)
                is_same = features.labels[first] == features.labels[second]
            else:
                given = given_pairs(task.pairs.cpu(), torch.from_numpy(self.data.parts[part].indices))
                first, second, is_same = (side.numpy() for side in given[:3])
            found[f"{part}/auc"] = verification_probe(features, first, second, is_same)
        return found


def probe_words(found: dict[str, Any]) -> str:
    """What was found, or why nothing was, in a line."""
    if "left_out" in found:
        return f"left out: {found['left_out']}"
    if "val/auc" in found:
        return f"{found['test/auc']:.4f} (auc by the cosine of the untouched features; val {found['val/auc']:.4f})"
    unfinished = "" if found["converged"] else "; it did not converge"
    return (
        f"{found['test/accuracy']:.4f} (logistic regression on the untouched features; "
        f"val {found['val/accuracy']:.4f}{unfinished})"
    )
