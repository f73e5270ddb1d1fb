"""What the settings of a schedule demand of each other, as far as it can be told without a model."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stagetune.errors import did_you_mean
from stagetune.schedule.spec import ALL, HEAD, LR_SCHEDULERS, SELECTORS, Schedule, Stage


def schedule_rules(schedule: Schedule, blocks: Sequence[str] | None, metrics: Sequence[str] | None) -> Iterator[str]:
    """The problems of a schedule; names of blocks and metrics are checked where they are known."""
    if not schedule.stages:
        yield "schedule.stages: is empty; choose schedule=staged, or list at least one stage"
    valid = (*blocks, HEAD, ALL) if blocks else ()
    monitors = [("schedule.monitor", schedule.monitor)]
    names: set[str] = set()
    opened: set[str] = set()  # blocks; what finer selectors open is known only with the model
    for i, stage in enumerate(schedule.stages):
        where = f"schedule.stages[{i}]"
        if not stage.name:
            yield f"{where}.name: is missing; every stage has a name"
        elif stage.name in names:
            yield f"{where}.name={stage.name}: stands twice; every stage has a name of its own"
        names.add(stage.name)
        yield from _selector_rules(where, stage, valid)
        if blocks:
            yield from _idle(where, stage, opened, blocks)
        yield from _length_rules(where, stage)
        yield from _rate_rules(where, stage)
        monitors.append((f"{where}.until.monitor", stage.until.monitor if stage.until else None))
    for key, monitor in monitors:
        if metrics and monitor and monitor not in metrics:
            yield f"{key}={monitor}: no such metric; {did_you_mean(monitor, metrics)}"


def _selector_rules(where: str, stage: Stage, valid: Sequence[str]) -> Iterator[str]:
    for key, selectors in (("open", stage.open), ("freeze", stage.freeze)):
        for selector in selectors:
            if isinstance(selector, str) and valid and selector not in valid:
                yield f"{where}.{key}: no block named {selector}; {did_you_mean(selector, valid)}"
            elif isinstance(selector, Mapping):
                for kind in selector:
                    if kind not in SELECTORS:
                        yield f"{where}.{key}: no selector named {kind}; {did_you_mean(str(kind), SELECTORS)}"


def _length_rules(where: str, stage: Stage) -> Iterator[str]:
    lengths = [key for key in ("epochs", "steps", "until") if getattr(stage, key) is not None]
    if len(lengths) > 1:
        yield f"{where} ({stage.name}): gives both {' and '.join(lengths)}; a stage has one length"
        return
    epochs = stage.until.max_epochs if stage.until else stage.epochs or 1
    if stage.warmup and stage.warmup_steps:
        yield f"{where} ({stage.name}): gives both warmup and warmup_steps; leave one of them out"
    elif stage.warmup and stage.steps is not None:
        yield f"{where}.warmup={stage.warmup}: counts epochs, the stage counts steps; use warmup_steps"
    elif stage.warmup > epochs:
        yield f"{where}.warmup={stage.warmup}: is longer than the stage's {epochs} epochs"
    elif stage.steps is not None and (stage.warmup_steps or 0) > stage.steps:
        yield f"{where}.warmup_steps={stage.warmup_steps}: is longer than the stage's {stage.steps} steps"


def _rate_rules(where: str, stage: Stage) -> Iterator[str]:
    if stage.lr is None and stage.lr_range is None and not stage.lrs:
        yield f"{where} ({stage.name}): has no learning rate; give lr, lr_range or lrs"
    rates: dict[Any, Any] = dict(stage.lrs or {})
    for key, rate in rates.items():
        if not isinstance(key, str):
            yield f"{where}.lrs: {key!r} names nothing; put block names that are numbers into quotes"
        elif isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            yield f"{where}.lrs: {key} has the rate {rate!r}; give a number greater than 0"
    if stage.lr == 0 or stage.lr_decay == 0:
        yield f"{where} ({stage.name}): lr and lr_decay must be greater than 0"
    shape = stage.lr_scheduler
    if isinstance(shape, Mapping):
        if "_target_" not in shape:
            yield f"{where}.lr_scheduler._target_: is missing; name a class of torch.optim.lr_scheduler"
        if shape.get("interval", "step") not in ("step", "epoch"):
            yield f"{where}.lr_scheduler.interval={shape['interval']}: no such choice; valid: step, epoch"
        frequency = shape.get("frequency", 1)
        if isinstance(frequency, bool) or not isinstance(frequency, int) or frequency < 1:
            yield f"{where}.lr_scheduler.frequency={frequency}: expects a whole number of at least 1"
        if stage.lr_scale:
            yield f"{where} ({stage.name}): lr_scale goes with a shape by name, not with a torch class"
        if stage.warmup or stage.warmup_steps:
            yield f"{where} ({stage.name}): warmup goes with a shape by name; SequentialLR can warm up a torch class"
    elif shape not in LR_SCHEDULERS:
        yield f"{where}.lr_scheduler={shape}: no such choice; {did_you_mean(str(shape), LR_SCHEDULERS)}"


def _idle(where: str, stage: Stage, opened: set[str], blocks: Sequence[str]) -> Iterator[str]:
    """A stage that unfreezes nothing, as far as it is said in blocks; `opened` is brought up to date."""
    asked = {*blocks, HEAD} if ALL in stage.open else {name for name in stage.open if isinstance(name, str)}
    remedy = "name a block that is still frozen, or remove the stage"
    if not stage.open and not opened:
        yield f"{where} ({stage.name}): unfreezes nothing, its open is empty; {remedy}"
    if asked and len(asked) >= len(stage.open) and asked <= opened:
        yield f"{where} ({stage.name}): unfreezes nothing, {', '.join(stage.open)} is open already; {remedy}"
    opened |= asked
    opened.difference_update(name for name in stage.freeze if isinstance(name, str))
    if any(not isinstance(name, str) for name in stage.open):
        opened.add("part of a block")
