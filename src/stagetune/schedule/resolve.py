"""A schedule resolved against one model: its plan. Pure, no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ParamSpec, TypeVar

from stagetune.errors import ScheduleError
from stagetune.schedule.model import BACKBONE, Model
from stagetune.schedule.plan import NO_DECAY, Group, Plan, PlannedStage
from stagetune.schedule.rates import stage_rates
from stagetune.schedule.selectors import select_all
from stagetune.schedule.spec import HEAD, Schedule, Stage, Until, mode_of

P = ParamSpec("P")
T = TypeVar("T")


def make_plan(schedule: Schedule, model: Model) -> Plan:
    """Resolve a schedule against a model.

    Args:
        schedule: what `load_schedule` gives.
        model: what `describe` says of a module.

    Returns:
        The plan: what each stage opens, in which groups, at which rates.

    Raises:
        ScheduleError: for anything in the schedule that the model cannot do.
    """
    if not schedule.stages:
        raise ScheduleError(f"schedule {schedule.name} has no stages; list at least one")
    opened = _open_sets(schedule, model)
    rates = [
        _in_stage(config, stage_rates, config, names, model)
        for config, names in zip(schedule.stages, opened, strict=True)
    ]
    groups = _make_groups(model, rates, by_tensor=any(stage.lr_scale for stage in schedule.stages))
    stages: list[PlannedStage] = []
    for config, names, rate in zip(schedule.stages, opened, rates, strict=True):
        open_blocks = tuple(
            b for b in model.ordered_blocks if any(p.block == b for p in model.parameters if p.name in names)
        )
        until = _until(config, schedule)
        monitor = until.monitor if until else schedule.monitor
        stage = PlannedStage(
            index=len(stages),
            name=config.name,
            start_epoch=_start(stages),
            epochs=until.max_epochs if until else None if config.steps else config.epochs or 1,
            steps=config.steps,
            until=until,
            monitor=monitor,
            mode=until.mode if until else schedule.mode or (monitor and mode_of(monitor)),
            restore_best=config.restore_best,
            open=tuple(p.name for p in model.parameters if p.name in names),
            open_blocks=open_blocks,
            frozen_prefix=next((i for i, b in enumerate(model.blocks) if b in open_blocks), len(model.blocks)),
            trainable_parameters=sum(p.numel for p in model.parameters if p.name in names),
            rates={group.name: rate.get(group.parameters[0], 0.0) for group in groups},
            lr_scheduler=config.lr_scheduler,
            warmup=config.warmup,
            warmup_steps=config.warmup_steps,
            optimizer_state=config.optimizer_state,
            batch_norm=config.batch_norm,
            weight_decay=config.weight_decay,
            gradient_clip_val=config.gradient_clip_val,
            lr_scale=config.lr_scale,
            l2_sp=config.l2_sp,
        )
        if stage.is_watched and stage.monitor is None:
            raise ScheduleError(f"stage {config.name} looks at a metric; name it, schedule.monitor=val_loss")
        if stage.is_watched and stage.mode is None:
            raise ScheduleError(f"stage {config.name}: is a high {stage.monitor} good? say mode=max, or mode=min")
        stages.append(stage)
    held = tuple(p.name for p in model.parameters if p.held)
    total = sum(p.numel for p in model.parameters)
    return Plan(schedule.name, model.blocks, groups, tuple(stages), total, held)


def _start(earlier: Sequence[PlannedStage]) -> int | None:
    """The first epoch after the stages, where it can be told before training."""
    if any(stage.epochs is None or stage.until for stage in earlier):
        return None
    return sum(stage.epochs or 0 for stage in earlier)


def _until(config: Stage, schedule: Schedule) -> Until | None:
    """The stage's condition with its metric and mode filled in."""
    if config.until is None:
        return None
    monitor = config.until.monitor or schedule.monitor
    mode = config.until.mode or (schedule.mode if config.until.monitor is None else None)
    return replace(config.until, monitor=monitor, mode=mode or (monitor and mode_of(monitor)))


def _open_sets(schedule: Schedule, model: Model) -> list[frozenset[str]]:
    """Per stage the trainable parameters: what earlier stages opened, what it opens, less what it freezes."""
    norms = frozenset(p.name for p in model.parameters if p.norm and not p.held)
    inner_norms = frozenset(p.name for p in model.parameters if p.norm and p.block != HEAD)
    opened: frozenset[str] = frozenset()
    frozen_norms: frozenset[str] = frozenset()
    sets = []
    for config in schedule.stages:
        adds = _in_stage(config, _opens, config, model)
        takes = _in_stage(config, select_all, config.freeze, model)
        if both := sorted(adds & takes):
            raise ScheduleError(f"stage {config.name} opens and freezes {both[0]}; leave one of the two out")
        if config.open and not adds - opened:
            raise ScheduleError(
                f"stage {config.name} of schedule {schedule.name} unfreezes nothing, it is all open already; "
                "name what is still frozen, or leave open out"
            )
        opened = (opened | adds) - takes
        # batch_norm speaks of all of them, also those of blocks that are frozen or open, and only for this stage
        trainable = opened | norms if config.batch_norm == "train" else opened
        if config.batch_norm == "frozen":
            frozen_norms |= opened & inner_norms
            trainable = opened - inner_norms
        if not trainable:
            raise ScheduleError(
                f"stage {config.name} of schedule {schedule.name} trains nothing; let it open a block"
            )
        sets.append(trainable)
    never = [p.name for p in model.parameters if p.name not in frozen_norms.union(model.held, *sets)]
    if never and not schedule.leave_frozen:
        raise ScheduleError(
            f"schedule {schedule.name} never opens {len(never)} parameters, such as {never[0]}; "
            "open them in a stage, or say leave_frozen: true"
        )
    return sets


def _opens(config: Stage, model: Model) -> frozenset[str]:
    """What the stage opens, without what is held."""
    names = select_all(config.open, model)
    for block, members in model.came_frozen.items():
        if names & members:
            raise ScheduleError(f"{block} came frozen; leave freezing to the schedule, or say came_frozen=open")
    if names and names <= model.held:
        raise ScheduleError(f"opens only what came frozen, such as {min(names)}; leave freezing to the schedule")
    return names - model.held


def _make_groups(model: Model, rates: Sequence[Mapping[str, float]], *, by_tensor: bool) -> tuple[Group, ...]:
    """Every parameter that is not held in exactly one group: those of a block that have the same rates throughout.

    Weights that decay stand apart from norms and biases. A block whose parameters go different ways is divided
    into parts, numbered in forward order: backbone.layer3.part1, backbone.layer3.part2, ... Where a stage scales
    its rates `by_tensor`, each parameter has a group of its own, under its name.
    """
    groups = []
    for block in model.ordered_blocks:
        members = [p for p in model.parameters if p.block == block and not p.held]
        if by_tensor:
            groups += [
                Group(p.name if p.ndim > 1 else p.name + NO_DECAY, block, (p.name,), p.ndim > 1) for p in members
            ]
            continue
        course = {p.name: tuple(rate.get(p.name, 0.0) for rate in rates) for p in members}
        parts = list(dict.fromkeys(course.values()))
        name = block if block == HEAD or block.startswith(BACKBONE) else f"{BACKBONE}{block}"
        for number, part in enumerate(parts, start=1):
            label = name if len(parts) == 1 else f"{name}.part{number}"
            for decays in (True, False):
                names = tuple(p.name for p in members if course[p.name] == part and (p.ndim > 1) == decays)
                if names:
                    groups.append(Group(label if decays else label + NO_DECAY, block, names, decays))
    return tuple(groups)


def _in_stage(config: Stage, resolve: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `resolve`; its error says in which stage it happened."""
    try:
        return resolve(*args, **kwargs)
    except ScheduleError as error:
        raise ScheduleError(f"stage {config.name}: {error}") from error
