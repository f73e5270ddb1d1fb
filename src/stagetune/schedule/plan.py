"""What a schedule comes to on one model. Pure data and pure functions, no torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from stagetune.schedule.progress import plateau_factor, shape, stalled
from stagetune.schedule.spec import Until

NO_DECAY = "/no_decay"


@dataclass(frozen=True)
class Group:
    """A parameter group of the optimizer; the same groups exist in every stage.

    Attributes:
        name: such as `backbone.layer4`, `backbone.layer4/no_decay` or `head`.
        block: the block, or the head, that its parameters are of.
        parameters: their names.
        decays: whether weight decay applies; norms and biases are kept out of it.
    """

    name: str
    block: str
    parameters: tuple[str, ...]
    decays: bool


@dataclass(frozen=True)
class Length:
    """How many optimizer steps and epochs a stage takes, at most, and over how many steps its rates rise."""

    steps: int
    epochs: int
    warmup: int


@dataclass(frozen=True)
class PlannedStage:
    """One phase of training with a fixed trainable set.

    Attributes:
        index: its place in the schedule, counted from 0.
        name: that of the stage.
        start_epoch: counted from 0; None after a stage whose end only training shows.
        epochs: its length, the longest with `until`; None if it is given in steps.
        steps: its length in optimizer steps; None if it is given in epochs.
        until: the condition that ends it.
        monitor: the metric that `until`, `restore_best` and plateaus look at.
        mode: `min` or `max`, which of its values are good.
        restore_best: the next stage begins from the weights that were best in this one.
        open: names of the trainable parameters, in the model's order.
        open_blocks: blocks of which anything is trainable, in forward order, the head last.
        frozen_prefix: how many leading blocks are wholly frozen.
        trainable_parameters: how many numbers are trained.
        rates: the learning rate of each group by its name; 0 for a frozen group.
        lr_scheduler: a shape by name, or a torch class by `_target_`.
        warmup: epochs over which the rates rise from 0.
        warmup_steps: the same in optimizer steps.
        optimizer_state: `keep` or `reset` what the optimizer remembers of earlier stages.
        batch_norm: `auto`, `frozen` or `train`.
        weight_decay: None for the optimizer's own.
        gradient_clip_val: at which its gradients are clipped; None for the Trainer's own.
        lr_scale: `relative_gradient_norm`: each tensor's rate times that, renewed in each epoch.
        l2_sp: strength of the penalty towards the weights that training began with.
    """

    index: int
    name: str
    start_epoch: int | None
    epochs: int | None
    steps: int | None
    until: Until | None
    monitor: str | None
    mode: str | None
    restore_best: bool
    open: tuple[str, ...]
    open_blocks: tuple[str, ...]
    frozen_prefix: int
    trainable_parameters: int
    rates: Mapping[str, float]
    lr_scheduler: str | Mapping[str, Any]
    warmup: float
    warmup_steps: int | None
    optimizer_state: str
    batch_norm: str
    weight_decay: float | None
    gradient_clip_val: float | None = None
    lr_scale: str | None = None
    l2_sp: float = 0.0

    @property
    def is_watched(self) -> bool:
        """Whether its course depends on the monitored metric."""
        plateau = self.lr_scheduler == "plateau" or self.target.endswith("ReduceLROnPlateau")
        return self.until is not None or self.restore_best or plateau

    @property
    def target(self) -> str:
        """The class of its learning-rate scheduler; empty for a shape by name."""
        return "" if isinstance(self.lr_scheduler, str) else str(self.lr_scheduler["_target_"])

    def length(self, steps_in: Callable[[int], int]) -> Length:
        """How long it is at most, where its epoch i, counted from 0, takes `steps_in(i)` optimizer steps."""

        def steps(epochs: float) -> int:
            whole = int(epochs)
            part = (epochs - whole) * steps_in(whole) if epochs > whole else 0.0
            return round(sum(steps_in(epoch) for epoch in range(whole)) + part)

        warmup = self.warmup_steps if self.warmup_steps is not None else steps(self.warmup)
        if self.steps is None:
            epochs = self.epochs or 0
            return Length(steps(epochs), epochs, warmup)
        epochs = done = 0
        while done < self.steps:
            done += max(steps_in(epochs), 1)
            epochs += 1
        return Length(self.steps, epochs, warmup)

    def lr_factor(self, length: Length, values: Sequence[float], step: int) -> float:
        """The share of the stage's rates at its optimizer step `step`, counted from 0.

        `values` are those of the monitored metric so far, one for each validation of the stage.
        """
        if step < length.warmup:
            return (step + 1) / (length.warmup + 1)
        if self.lr_scheduler == "plateau":
            return plateau_factor(values, str(self.mode))
        return shape(str(self.lr_scheduler), step - length.warmup, max(length.steps - length.warmup, 1))

    def is_over(self, epochs: int, steps: int, values: Sequence[float]) -> bool:
        """Whether it ends after so many epochs and optimizer steps, with these values of the metric."""
        if self.steps is not None:
            return steps >= self.steps
        if self.until is not None and stalled(
            values, str(self.mode), patience=self.until.patience, min_delta=self.until.min_delta
        ):
            return True
        return epochs >= (self.epochs or 0)


@dataclass(frozen=True)
class Plan:
    """The stages in order, over the groups that exist throughout.

    Attributes:
        name: that of the schedule.
        blocks: those of the backbone, in forward order.
        groups: the parameter groups of the optimizer.
        stages: the stages, in order.
        total_parameters: how many numbers the model has.
        held: names of the parameters that came frozen and stay so.
    """

    name: str
    blocks: tuple[str, ...]
    groups: tuple[Group, ...]
    stages: tuple[PlannedStage, ...]
    total_parameters: int
    held: tuple[str, ...] = ()

    def __str__(self) -> str:
        from stagetune.schedule.table import plan_text  # a view of this

        return plan_text(self)

    @property
    def epochs(self) -> int | None:
        """Epochs of all stages, at most; None if one of them is given in steps."""
        counts = [stage.epochs for stage in self.stages]
        return None if None in counts else sum(count or 0 for count in counts)

    def shortened(self, batches: int) -> "Plan":
        """The same stages with one epoch of so many batches each."""
        steps = [None if stage.steps is None else min(stage.steps, batches) for stage in self.stages]
        stages = [
            replace(stage, start_epoch=i, epochs=None if count else 1, steps=count, until=None)
            for i, (stage, count) in enumerate(zip(self.stages, steps, strict=True))
        ]
        return replace(self, stages=tuple(stages))

    def as_data(self) -> dict[str, Any]:
        """Plain containers, for a checkpoint; `check_resumable` compares them."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data
