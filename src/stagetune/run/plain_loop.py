"""Stages trained in a plain loop, without a Trainer's fit: on cached features where there is a frozen prefix."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count, islice
from typing import Any

import torch
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.seed import isolate_rng
from torch.optim import Optimizer

from stagetune.cache.features import Features
from stagetune.cache.tables import Tables
from stagetune.config.schema import Config
from stagetune.data.datamodule import Batch, StagedData
from stagetune.data.samplers import Key
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.gradients import Anchor, RelativeGradientNorms
from stagetune.schedule.groups import regroup, set_rates, settings_of
from stagetune.schedule.lr_schedulers import simulate
from stagetune.schedule.network import Network
from stagetune.schedule.plan import Plan, PlannedStage


class PlainLoop:
    """Trains a task a stage at a time, each under an optimizer of its own.

    Args:
        config: of a run, of which one process is asked for.
        data: its data; what is served is set for as long as a stage is trained.
        tables: the feature cache of a trainer that knows the task.
        network: the task as the plan sees it.
        plan: of its schedule.
    """

    def __init__(self, config: Config, data: StagedData, tables: Tables, network: Network, plan: Plan) -> None:
        self.config, self.data, self.tables, self.network, self.plan = config, data, tables, network, plan
        self.task: Any = network.module
        self.trainer = tables.trainer
        self.anchor = Anchor(network.parameters, plan)
        self.depth = 0  # at which the latest stage was served features; 0 for images

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within, weights and statistics may change; afterwards they are what they were."""
        before = {name: value.detach().clone() for name, value in self.task.state_dict().items()}
        try:
            yield
        finally:
            self.task.load_state_dict(before)

    def train(self, stage: PlannedStage) -> None:
        """Train a stage as the schedule says, to its longest length."""
        highest = max(stage.rates.values())
        with self.training(stage) as step:
            for rates in simulate(stage, -(-self._batches() // self._window)):
                step(max(rates) / highest)

    @contextmanager
    def training(self, stage: PlannedStage) -> Iterator[Callable[[float], float]]:
        """What the stage opens is open.

        Args:
            stage: as planned.

        Yields:
            An optimizer step at the stage's rates times a factor, which gives the loss before it.
        """
        optimizer = self.task.configure_optimizers()
        regroup(optimizer, self.network, self.plan)
        set_rates(optimizer, settings_of(optimizer), stage)
        freezing = Freezing(self.network)
        with isolate_rng(include_cuda=False):
            torch.manual_seed(self.config.seed)
            self._serve(stage)
            freezing.open_only(set(stage.open), stage.batch_norm)
            try:
                yield partial(self._step, stage, optimizer, self._windows(), RelativeGradientNorms())
            finally:
                freezing.release()
                self.task.zero_grad(set_to_none=True)
                self.data.served.clear()

    def _step(
        self,
        stage: PlannedStage,
        optimizer: Optimizer,
        windows: Iterator[list[Batch]],
        norms: RelativeGradientNorms,
        factor: float,
    ) -> float:
        optimizer.zero_grad()
        window, cost = next(windows), 0.0
        for batch in window:
            with self.trainer.precision_plugin.forward_context():
                loss = self.task.training_step(batch, 0) / len(window)
            loss.backward()
            cost += float(loss.detach())
        if stage.l2_sp:
            self.anchor.pull(stage.l2_sp)
        if stage.lr_scale:
            norms.measure(optimizer, 0)
        for group in optimizer.param_groups:
            group["lr"] = stage.rates[group["plan_group"]] * factor * norms.of(group["plan_group"])
        own = stage.gradient_clip_val
        if clip := self.trainer.gradient_clip_val if own is None else own:
            algorithm = self.trainer.gradient_clip_algorithm or GradClipAlgorithmType.NORM
            self.trainer.precision_plugin.clip_gradients(optimizer, clip, algorithm)
        optimizer.step()
        return cost

    def _serve(self, stage: PlannedStage) -> None:
        """Let training read what the frozen prefix gives, where that fits the cache and images are not mixed.

        Where augmentations are new in each epoch it is of the images without any.
        """
        depth, self.depth = max(start for start in self.task.backbone.starts if start <= stage.frozen_prefix), 0
        if self.config.cache.features == "auto" and depth and not self.data.mixes:
            part = "train" if self.data.repeats("train") else "plain"
            features = self.tables.features(part, depth, [depth])
            if features is not None:
                serve = features if part == "train" else partial(_the_only_view, features)
                self.data.served["train"], self.depth = serve, depth

    def _windows(self) -> Iterator[list[Batch]]:
        """The batches of each optimizer step, epoch after epoch, on the device."""
        loader = self.data.train_dataloader()
        for epoch in count():
            loader.sampler.set_epoch(epoch)
            batches = islice(loader, self._batches())
            while window := list(islice(batches, self._window)):
                yield [self.trainer.strategy.batch_to_device(batch) for batch in window]

    @property
    def _window(self) -> int:
        return 1 if self.config.exact_accumulation else self.config.accumulation

    def _batches(self) -> int:
        """Those of an epoch."""
        batches, limit = len(self.data.train_batches(0)), self.config.trainer.get("limit_train_batches", 1.0)
        return max(min(batches, limit) if isinstance(limit, int) else int(batches * limit), 1)


def _the_only_view(features: Features, batches: Iterable[list[Key]]) -> Iterator[Batch]:
    """Batches of images without augmentation, whichever views of them are asked for."""
    return features([(0, position) for _, position in batch] for batch in batches)
