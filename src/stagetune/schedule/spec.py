"""What a schedule says: its stages, field by field. Plain dataclasses, no torch."""

import re
from dataclasses import dataclass, field
from typing import Any

from stagetune.typed import choice, number

HEAD, ALL = "head", "all"  # our words; a layer of that name is called backbone.head, backbone.all
SELECTORS = ("last", "fraction", "index", "match", "params")
LR_SCHEDULERS = ("constant", "linear", "cosine", "one_cycle", "plateau")

LOWER_IS_BETTER = ("loss", "eer", "error", "mae", "mse", "rmse", "nll", "perplexity", "wer", "cer")
HIGHER_IS_BETTER = (
    "accuracy", "acc", "top5", "f1", "auc", "auroc", "map", "precision", "recall", "iou", "dice", "r2",
)  # fmt: skip


def mode_of(metric: str) -> str | None:
    """`min` for losses and errors, `max` for scores; None for a metric whose name does not say it."""
    words = re.split(r"[/_\s-]", metric.lower())
    if any(word in LOWER_IS_BETTER for word in words):
        return "min"
    return "max" if any(word in HIGHER_IS_BETTER for word in words) else None


@dataclass(slots=True)
class Until:
    """The condition that ends a stage: its metric stalls. It is looked at when an epoch ends.

    Attributes:
        monitor: the metric, as it is logged; the schedule's where it is not said.
        mode: `min` or `max`, which of its values are good; by the metric's name where it is not said.
        patience: so many validations in a row without a gain end the stage.
        min_delta: a gain is an improvement by more than this, in the metric's unit.
        max_epochs: the stage ends after so many epochs at the latest.

    >>> Until(monitor="val/loss", patience=2).max_epochs
    20
    """

    monitor: str | None = None
    mode: str | None = choice(None, "min", "max")
    patience: int = number(3, 1)
    min_delta: float = number(0.0, 0)
    max_epochs: int = number(20, 1)


@dataclass(slots=True)
class Stage:
    """One phase of training with a fixed trainable set.

    Attributes:
        name: its name on screen, in files and in messages; every stage has one of its own.
        open: selectors of what it unfreezes: a block, `head`, `all`, or `{last: 20}`, `{match: "*.bn1"}`, ...
            What an earlier stage opened stays open.
        freeze: selectors of what it freezes again.
        epochs: its length in epochs. One of `epochs`, `steps` and `until` is said; without any it is one epoch.
        steps: its length in optimizer steps; the epoch in which they end is cut short.
        until: the condition that ends it.
        restore_best: the next stage begins from the weights that were best in this one, by the monitored metric.
        lr: the learning rate of the head.
        lr_decay: the rate of each block as a share of the rate of the block above.
        lr_range: `[lowest, highest]` instead, spread evenly in ratio from the deepest open block to the topmost.
        lrs: rates by block, glob, position or selector; the first key that names a parameter decides, before `lr`.
        lr_scheduler: the course of the rates: one of LR_SCHEDULERS, or a torch class, `{_target_: ..., ...}`.
        lr_scale: `relative_gradient_norm` multiplies the rate of each tensor by the norm of its gradient over that
            of its weights, as a share of the largest, and renews this in each epoch (Lee et al. 2023, Auto-RGN).
        warmup: epochs over which the rates rise from 0.
        warmup_steps: the same in optimizer steps.
        optimizer_state: `keep` or `reset` what the optimizer remembers of earlier stages.
        batch_norm: `auto` (eval where frozen, trains where open), `frozen` or `train`: all of the backbone's.
        weight_decay: that of this stage; None for the optimizer's own. Norms and biases never decay.
        gradient_clip_val: gradients are clipped at this in this stage, by their norm unless the Trainer's
            `gradient_clip_algorithm` says otherwise; 0 for not at all, None for what the Trainer has.
        l2_sp: the strength of a penalty on the backbone's open weights, half the squared distance to those that
            training began with, in place of weight decay there (Li et al. 2018, L2-SP).

    >>> Stage("head", open=["head"], epochs=2, lr=1e-3).batch_norm
    'auto'
    """

    name: str = ""
    open: list[Any] = field(default_factory=list)
    freeze: list[Any] = field(default_factory=list)
    epochs: int | None = number(None, 1)
    steps: int | None = number(None, 1)
    until: Until | None = None
    restore_best: bool = False
    lr: float | None = number(None, 0)
    lr_decay: float = number(1.0, 0, 10)
    lr_range: list[float] | None = None
    lrs: dict[str, Any] | None = None
    lr_scheduler: Any = "constant"
    lr_scale: str | None = choice(None, "relative_gradient_norm")
    warmup: float = number(0.0, 0)
    warmup_steps: int | None = number(None, 1)
    optimizer_state: str = choice("keep", "reset")
    batch_norm: str = choice("auto", "frozen", "train")
    weight_decay: float | None = number(None, 0)
    gradient_clip_val: float | None = number(None, 0)
    l2_sp: float = number(0.0, 0)


@dataclass(slots=True)
class Schedule:
    """The ordered list of stages.

    Attributes:
        name: what it is called in files and reports.
        leave_frozen: what no stage opens stays frozen on purpose; without this it is an error.
        stages: the stages, in order.
        monitor: the metric that its stages look at, where they name none.
        mode: `min` or `max`, which of its values are good; by the metric's name where it is not said.

    >>> schedule = Schedule("mine", stages=[Stage("head", open=["head"], lr=1e-3)], leave_frozen=True)
    >>> [stage.name for stage in schedule.stages]
    ['head']
    """

    name: str = "schedule"
    leave_frozen: bool = False
    stages: list[Stage] = field(default_factory=list)
    monitor: str | None = None
    mode: str | None = choice(None, "min", "max")
