"""A schedule resolved against one model. Pure data and pure functions, no torch: `plan.at(epoch)` says all."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ParamSpec, TypeVar

from stagetune.config.schema import ScheduleConfig, StageConfig
from stagetune.errors import ScheduleError
from stagetune.schedule.model import Model
from stagetune.schedule.rates import stage_rates
from stagetune.schedule.selectors import select_all

NO_DECAY = "/no_decay"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """A parameter group of the optimizer; the same groups exist in every stage."""

    name: str  # backbone.layer4, backbone.layer4/no_decay, head, ...
    block: str
    parameters: tuple[str, ...]
    decays: bool  # norms and biases are kept out of weight decay


@dataclass(frozen=True)
class Stage:
    """One phase of training with a fixed trainable set."""

    index: int
    name: str
    start_epoch: int
    epochs: int
    open: tuple[str, ...]  # names of the trainable parameters, in the model's order
    open_blocks: tuple[str, ...]  # blocks of which anything is trainable, in forward order, the head last
    frozen_prefix: int  # how many leading blocks are wholly frozen
    trainable_parameters: int
    rates: Mapping[str, float]  # group name -> learning rate; 0 for a frozen group
    lr_scheduler: str
    warmup: float  # epochs over which the rates rise from 0
    optimizer_state: str  # keep | reset: what the optimizer remembers of earlier stages
    batch_norm: str  # auto | frozen | train
    weight_decay: float | None  # None: the optimizer's own

    @property
    def end_epoch(self) -> int:
        """The first epoch after this stage."""
        return self.start_epoch + self.epochs

    def lr_factor(self, steps_per_epoch: int, step: int) -> float:
        """The share of the stage's rates at its optimizer step `step`, counted from 0."""
        rise = round(self.warmup * steps_per_epoch)
        if step < rise:
            return (step + 1) / (rise + 1)
        progress = min((step - rise) / max(self.epochs * steps_per_epoch - rise, 1), 1.0)
        if self.lr_scheduler == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1 - progress if self.lr_scheduler == "linear" else 1.0


@dataclass(frozen=True)
class Plan:
    """The stages in order, over the groups that exist throughout."""

    name: str
    blocks: tuple[str, ...]
    groups: tuple[Group, ...]
    stages: tuple[Stage, ...]
    total_parameters: int

    @property
    def epochs(self) -> int:
        return self.stages[-1].end_epoch

    def at(self, epoch: int) -> Stage:
        """The stage that `epoch` belongs to; the last one for any epoch after the end."""
        return next((stage for stage in self.stages if epoch < stage.end_epoch), self.stages[-1])

    def fingerprint(self) -> str:
        """Equal for equal plans; a checkpoint carries it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def make_plan(schedule: ScheduleConfig, model: Model) -> Plan:
    """Resolve a schedule against a model; raises `ScheduleError` for anything in it that the model cannot do."""
    if not schedule.stages:
        raise ScheduleError(f"schedule {schedule.name} has no stages; list at least one")
    opened = _open_sets(schedule, model)
    rates = [
        _in_stage(config, stage_rates, config, names, model)
        for config, names in zip(schedule.stages, opened, strict=True)
    ]
    groups = _make_groups(model, rates)
    stages: list[Stage] = []
    for config, names, rate in zip(schedule.stages, opened, rates, strict=True):
        open_blocks = tuple(
            b for b in model.ordered_blocks if any(p.block == b for p in model.parameters if p.name in names)
        )
        stages.append(
            Stage(
                index=len(stages),
                name=config.name,
                start_epoch=stages[-1].end_epoch if stages else 0,
                epochs=config.epochs,
                open=tuple(p.name for p in model.parameters if p.name in names),
                open_blocks=open_blocks,
                frozen_prefix=next((i for i, b in enumerate(model.blocks) if b in open_blocks), len(model.blocks)),
                trainable_parameters=sum(p.numel for p in model.parameters if p.name in names),
                rates={group.name: rate.get(group.parameters[0], 0.0) for group in groups},
                lr_scheduler=config.lr_scheduler,
                warmup=config.warmup,
                optimizer_state=config.optimizer_state,
                batch_norm=config.batch_norm,
                weight_decay=config.weight_decay,
            )
        )
    return Plan(schedule.name, model.blocks, groups, tuple(stages), sum(p.numel for p in model.parameters))


def _open_sets(schedule: ScheduleConfig, model: Model) -> list[frozenset[str]]:
    """Per stage the trainable parameters: what earlier stages opened, what it opens, less what it freezes."""
    norms = frozenset(p.name for p in model.parameters if p.norm)
    opened: frozenset[str] = frozenset()
    sets = []
    for config in schedule.stages:
        adds = _in_stage(config, select_all, config.open, model)
        takes = _in_stage(config, select_all, config.freeze, model)
        if both := sorted(adds & takes):
            raise ScheduleError(f"stage {config.name} opens and freezes {both[0]}; leave one of the two out")
        if config.open and not adds - opened:
            raise ScheduleError(
                f"stage {config.name} of schedule {schedule.name} unfreezes nothing, it is all open already; "
                "name what is still frozen, or leave open out"
            )
        opened = (opened | adds) - takes
        # batch_norm: train means all of them, also those of frozen blocks, and only for this stage
        trainable = opened | norms if config.batch_norm == "train" else opened
        if not trainable:
            raise ScheduleError(
                f"stage {config.name} of schedule {schedule.name} trains nothing; let it open a block"
            )
        sets.append(trainable)
    never = [p.name for p in model.parameters if not any(p.name in names for names in sets)]
    if never and not schedule.leave_frozen:
        raise ScheduleError(
            f"schedule {schedule.name} never opens {len(never)} parameters, such as {never[0]}; "
            "open them in a stage, or say leave_frozen: true"
        )
    return sets


def _make_groups(model: Model, rates: Sequence[Mapping[str, float]]) -> tuple[Group, ...]:
    """Every parameter in exactly one group: those of a block that have the same rates throughout.

    Weights that decay stand apart from norms and biases. A block whose parameters go different ways is divided
    into parts, numbered in forward order: backbone.layer3.part1, backbone.layer3.part2, ...
    """
    groups = []
    for block in model.ordered_blocks:
        members = [p for p in model.parameters if p.block == block]
        course = {p.name: tuple(rate.get(p.name, 0.0) for rate in rates) for p in members}
        parts = list(dict.fromkeys(course.values()))
        name = block if block == model.ordered_blocks[-1] else f"backbone.{block}"
        for number, part in enumerate(parts, start=1):
            label = name if len(parts) == 1 else f"{name}.part{number}"
            for decays in (True, False):
                names = tuple(p.name for p in members if course[p.name] == part and (p.ndim > 1) == decays)
                if names:
                    groups.append(Group(label if decays else label + NO_DECAY, block, names, decays))
    return tuple(groups)


def _in_stage(config: StageConfig, resolve: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `resolve`; its error says in which stage it happened."""
    try:
        return resolve(*args, **kwargs)
    except ScheduleError as error:
        raise ScheduleError(f"stage {config.name}: {error}") from error
