"""Same identity or not: every image is encoded once, pairs are formed inside the batch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stagetune.config.schema import Config
from stagetune.config.settings import LossSettings, TaskSettings
from stagetune.data.source import Pairs, Source
from stagetune.data.splits import Split, check_pairs
from stagetune.errors import DataError
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.roc import RESOLVED
from stagetune.typed import choice, number

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone
    from stagetune.tasks.siamese import SiameseTask


@dataclass
class Settings(TaskSettings):
    """`task=siamese`."""

    name: str = "siamese"
    monitor: str = "val/auc"
    head: str = choice("hidden", "linear")
    hidden: int = number(512, 1)
    embedding: int | None = number(128, 1)
    dropout: float = number(0.0, 0, 0.99)
    images_per_identity: int = number(4, 2)
    batches: str = choice("identities", "by_group", "uniform")
    eval_pairs: int = number(100_000, 100)
    calibrate: str = choice("accuracy", "eer", "far")
    far: float = number(0.01, 1e-6, 0.5)
    on_collapse: str = choice("stop", "go_back", "go_on")

    metrics = ("val/loss", "val/auc", "val/eer", "val/accuracy")
    told = ("task",)

    def problems(self, config: Config) -> Iterator[str]:
        no_layer = self.embedding is None and "task.embedding=null"
        no_hidden = no_layer or (self.head == "linear" and "task.head=linear")
        idle = {
            "head": no_layer,
            "hidden": no_hidden,
            "dropout": no_hidden,
            "far": self.calibrate != "far" and f"task.calibrate={self.calibrate}",
            "images_per_identity": self.batches == "uniform" and "task.batches=uniform",
        }
        for key in ("images_per_identity", "batches", "eval_pairs"):
            idle[key] = idle.get(key) or (not config.data.has_identities and f"data={config.data.name}")
        for key, beside in idle.items():
            if beside and self.differs(key):
                yield f"task.{key}={getattr(self, key)}: has no effect with {beside}; leave one of them out"

        if config.data.mixes:
            key = "mixup" if config.data.mixup else "cutmix"
            yield (
                f"data.{key}={getattr(config.data, key)}: mixes classes, and task=siamese compares identities; "
                "leave it out, or use task=classifier"
            )
        if config.data.sampler == "balanced" and not config.data.has_identities:
            yield f"data.sampler=balanced: goes by identities, and data={config.data.name} gives pairs; leave it out"
        elif config.data.sampler == "balanced" and self.batches != "uniform":
            yield (
                f"data.sampler=balanced: has no effect with task.batches={self.batches}, which has as many images of "
                "each identity in a batch; leave it out, or add task.batches=uniform"
            )

    def batches_of(self) -> tuple[int | None, bool]:
        return None if self.batches == "uniform" else self.images_per_identity, self.batches == "by_group"

    def check(self, source: Source, split: Split, pairs: Pairs | None) -> None:
        if pairs is None:
            check_pairs(source, split)
        if self.calibrate == "far":
            self._check_far(source, split, pairs)

    def build(
        self,
        loss: LossSettings,
        backbone: "Backbone",
        classes: int,
        pairs: Pairs | None,
        metrics: Mapping[str, Mapping[str, Any]],
        **shared: Any,
    ) -> "SiameseTask":
        from stagetune.models.heads import EmbeddingHead
        from stagetune.tasks.metrics import own_metrics
        from stagetune.tasks.siamese import SiameseTask

        head = EmbeddingHead(
            backbone.out_features,
            self.embedding,
            hidden=self.hidden if self.head == "hidden" else None,
            dropout=self.dropout,
            is_weighted=loss.measure() == "weighted_l1",
        )
        return SiameseTask(
            backbone,
            head,
            loss.build(classes, head.dimensions),
            distance=loss.measure(),
            calibration=(self.calibrate, self.far),
            eval_pairs=self.eval_pairs,
            pairs=pairs,
            metrics=own_metrics(metrics, task="binary"),
            **shared,
        )

    def _check_far(self, source: Source, split: Split, pairs: Pairs | None) -> None:
        """Raise `DataError` where validation has too few different pairs to know the wanted false accept rate."""
        if pairs is None:
            labels = source.labels[split.val]
            first, second = evaluation_pairs(labels, self.eval_pairs)
            different = int((labels[first] != labels[second]).sum())
        else:
            different = int((np.isin(pairs.first, split.val) & (pairs.is_same == 0)).sum())
        if different * self.far < RESOLVED:
            needed = round(RESOLVED / self.far)
            raise DataError(
                f"task.calibrate=far: a false accept rate of {self.far:g} needs {needed:,} different "
                f"pairs in validation, {different:,} are measured; choose a larger task.far, or give more images"
            )
