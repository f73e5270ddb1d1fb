"""What a schedule comes to on one model. Pure data and pure functions, no torch."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, TypedDict

from stagetune.errors import ScheduleError
from stagetune.schedule.progress import plateau_factor, shape, stalled
from stagetune.schedule.spec import Until
from stagetune.typed import typed

NO_DECAY = "/no_decay"
_FOLLOWS = ("index", "start_epoch", "open_blocks", "frozen_prefix", "trainable_parameters")  # from other keys


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
        """Plain containers, for a checkpoint; `check_same_plan` compares them."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data


class _OfGroup(TypedDict):
    name: str
    parameters: list[str]


class _OfStage(TypedDict):
    name: str
    open: list[str]
    rates: dict[str, float]


class _OfPlan(TypedDict):
    blocks: list[str]
    total_parameters: int
    held: list[str]
    groups: list[_OfGroup]
    stages: list[_OfStage]


class _State(TypedDict):
    """What a checkpoint says of the plan that it was trained by, as far as it is compared."""

    plan: _OfPlan
    stage_starts: list[Any]


def check_resumable(state: Mapping[str, Any], now: Plan, *, accepts_new: bool) -> bool:
    """Whether a run that was trained by another plan goes on by this one.

    Args:
        state: that of `StagedUnfreezing` in the checkpoint.
        now: the plan to go on by.
        accepts_new: whether it may be another one.

    Returns:
        Whether it is.

    Raises:
        ScheduleError: for another plan that is not accepted, or that has no place for the stage that was begun last.
    """
    if "stage_starts" not in state:
        raise ScheduleError("the checkpoint is of an earlier stagetune; load its weights and start anew")
    problems: list[str] = []
    kept = typed(_State, state, "StagedUnfreezing", problems)
    if problems:
        raise ScheduleError(
            f"the checkpoint was changed ({problems[0]}); take another copy of it, or start a new run"
        )
    before, begun = kept["plan"], len(kept["stage_starts"])
    lacking = {entry.name: entry.default for entry in fields(PlannedStage) if entry.default is not MISSING}
    before = {**before, "stages": [{**lacking, **stage} for stage in before["stages"]]}  # of a time without them
    if before == now.as_data():
        return False
    if not accepts_new:
        changed = list(_differences(before, now.as_data())) or ["its parameter groups are others"]
        raise ScheduleError(
            f"the run was begun with another schedule: {'; '.join(changed[:3])}; take the old one, start a new run, "
            "or say resume_with_new_schedule=true"
        )
    if begun > len(now.stages):
        raise ScheduleError(
            f"the run is in its stage {begun}, {before['stages'][begun - 1]['name']}, and the new schedule has only "
            f"{len(now.stages)}; give it as many, or start a new run"
        )
    return True


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two plans' data, in words."""
    if before["blocks"] != now["blocks"] or before["total_parameters"] != now["total_parameters"]:
        yield "the model is another"
    for name in sorted(set(before["held"]) ^ set(now["held"]))[:1]:
        yield f"{name} {'is held, was not' if name in now['held'] else 'was held, is not'}"
    if len(before["stages"]) != len(now["stages"]):
        yield f"it has {len(now['stages'])} stages, not {len(before['stages'])}"
    for old, new in zip(before["stages"], now["stages"], strict=False):
        where = f"stage {new['name']}:"
        for key in ("name", *(key for key in new if key not in ("name", *_FOLLOWS))):
            if key == "open" and old[key] != new[key]:
                other = sorted(set(old[key]) ^ set(new[key]))[0]
                yield f"{where} {other} is {'open' if other in new[key] else 'frozen'}, was not"
            elif key == "rates":
                was, now_is = (_rates(plan, stage) for plan, stage in ((before, old), (now, new)))
                for name in [name for name in now_is if now_is[name] != was.get(name)][:1]:
                    yield f"{where} the rate of {name} is {now_is[name]:g}, was {was.get(name, 0.0):g}"
            elif old.get(key) != new[key]:
                yield f"{where} {key} is {new[key]}, was {old.get(key)}"


def _rates(plan: Mapping[str, Any], stage: Mapping[str, Any]) -> dict[str, float]:
    """The rate of each parameter, whatever groups they are divided into."""
    return {name: stage["rates"].get(group["name"], 0.0) for group in plan["groups"] for name in group["parameters"]}
