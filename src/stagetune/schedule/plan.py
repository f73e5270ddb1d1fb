"""A schedule resolved against one model. Pure data and pure functions, no torch: `plan.at(epoch)` says all."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from stagetune.config.schema import HEAD, ScheduleConfig, StageConfig
from stagetune.errors import ScheduleError, did_you_mean

NO_DECAY = "/no_decay"


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model as the plan sees it."""

    name: str
    block: str  # a backbone block, or the head
    numel: int
    ndim: int


@dataclass(frozen=True)
class Model:
    """What a plan has to know of a model: its blocks in forward order and its parameters."""

    blocks: tuple[str, ...]
    parameters: tuple[Parameter, ...]


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
    open_blocks: tuple[str, ...]  # forward order, the head last
    frozen_prefix: int  # how many leading blocks are wholly frozen
    trainable_parameters: int
    rates: Mapping[str, float]  # group name -> learning rate; 0 for a frozen group
    lr_scheduler: str

    @property
    def end_epoch(self) -> int:
        """The first epoch after this stage."""
        return self.start_epoch + self.epochs


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
    """Resolve a schedule; raises `ScheduleError` for a block that the model does not have or an idle stage."""
    groups = make_groups(model)
    opened: set[str] = set()
    stages: list[Stage] = []
    for config in schedule.stages:
        asked = _asked_blocks(config, model.blocks)
        if not asked - opened:
            raise ScheduleError(
                f"stage {config.name} of schedule {schedule.name} unfreezes nothing; "
                "name a block that is still frozen, or remove the stage"
            )
        opened |= asked
        stages.append(_make_stage(config, stages, frozenset(opened), groups, model))
    if not stages:
        raise ScheduleError(f"schedule {schedule.name} has no stages; list at least one")
    total = sum(parameter.numel for parameter in model.parameters)
    return Plan(schedule.name, model.blocks, groups, tuple(stages), total)


def make_groups(model: Model) -> tuple[Group, ...]:
    """Every parameter in exactly one group: per block the decaying weights, and its norms and biases."""
    groups = []
    for block in (*model.blocks, HEAD):
        name = block if block == HEAD else f"backbone.{block}"
        for decays in (True, False):
            members = tuple(p.name for p in model.parameters if p.block == block and (p.ndim > 1) == decays)
            if members:
                groups.append(Group(name if decays else name + NO_DECAY, block, members, decays))
    return tuple(groups)


def lr_factor(shape: str, steps: int, step: int) -> float:
    """The share of a stage's rate at optimizer step `step` (from 0) of its `steps`; 1 at the first."""
    progress = min(step / max(steps, 1), 1.0)
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if shape == "linear" else 1.0


def _asked_blocks(config: StageConfig, blocks: Sequence[str]) -> set[str]:
    valid = (*blocks, HEAD, "all")
    for block in config.open:
        if block not in valid:
            raise ScheduleError(
                f"stage {config.name} opens {block}, but this model has no such block; {did_you_mean(block, valid)}"
            )
    return {*blocks, HEAD} if "all" in config.open else set(config.open)


def _make_stage(
    config: StageConfig,
    before: Sequence[Stage],
    opened: frozenset[str],
    groups: Sequence[Group],
    model: Model,
) -> Stage:
    ordered = (*model.blocks, HEAD)
    depth = {block: len(ordered) - 1 - i for i, block in enumerate(ordered)}  # the head is 0
    rates = {
        group.name: config.lr * config.lr_decay ** depth[group.block] if group.block in opened else 0.0
        for group in groups
    }
    prefix = next((i for i, block in enumerate(model.blocks) if block in opened), len(model.blocks))
    return Stage(
        index=len(before),
        name=config.name,
        start_epoch=before[-1].end_epoch if before else 0,
        epochs=config.epochs,
        open_blocks=tuple(block for block in ordered if block in opened),
        frozen_prefix=prefix,
        trainable_parameters=sum(p.numel for p in model.parameters if p.block in opened),
        rates=rates,
        lr_scheduler=config.lr_scheduler,
    )
