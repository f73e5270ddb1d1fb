"""The plan as a table of plain text: the screen and plan.txt."""

from collections.abc import Sequence

from stagetune.schedule.plan import NO_DECAY, Plan, PlannedStage

LISTED = 8  # names of held parameters


def plan_table(plan: Plan) -> str:
    """One line per stage: epochs, open blocks, trainable parameters, learning rates."""
    heading = ("stage", "epochs", "open", "trainable", "learning rate")
    return "\n".join(columns([heading, *(_row(plan, stage)[:5] for stage in plan.stages)]))


def plan_text(plan: Plan) -> str:
    """plan.txt: the table with BatchNorm and the frozen prefix, then the rate of every group in every stage."""
    heading = ("stage", "epochs", "open", "trainable", "learning rate", "BatchNorm", "cached depth")
    rates = [("group", "parameters", *(stage.name for stage in plan.stages))]
    for group in plan.groups:
        own = (f"{stage.rates[group.name]:.2e}" if stage.rates[group.name] else "frozen" for stage in plan.stages)
        rates.append((group.name, str(len(group.parameters)), *own))
    more = f" and {len(plan.held) - LISTED} more" if len(plan.held) > LISTED else ""
    held = [f"held, since they came frozen: {', '.join(plan.held[:LISTED])}{more}"] if plan.held else []
    return "\n".join(
        [
            f"schedule {plan.name}: {len(plan.stages)} stages, {length_words(plan)}",
            "",
            *columns([heading, *(_row(plan, stage) for stage in plan.stages)]),
            "",
            *columns(rates),
            "",
            "frozen blocks are in eval mode and do not change by a bit, their BatchNorm included",
            *held,
            "",
        ]
    )


def count_words(count: int) -> str:
    """1234567 -> 1.2M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def length_words(plan: Plan) -> str:
    """How long it takes: 9 epochs, at most 40 epochs, 4 epochs and 500 steps."""
    most = "at most " if any(stage.until for stage in plan.stages) else ""
    epochs = sum(stage.epochs or 0 for stage in plan.stages)
    steps = sum(stage.steps or 0 for stage in plan.stages)
    return " and ".join([*([f"{most}{epochs} epochs"] if epochs else []), *([f"{steps} steps"] if steps else [])])


def _epochs_words(stage: PlannedStage) -> str:
    if stage.steps is not None:
        return f"{stage.steps} steps"
    if stage.until is not None:
        return f"at most {stage.epochs}, until {stage.monitor} stalls for {stage.until.patience}"
    if stage.start_epoch is None or stage.epochs is None:
        return f"{stage.epochs} more"
    return (
        f"{stage.start_epoch}" if stage.epochs == 1 else f"{stage.start_epoch}-{stage.start_epoch + stage.epochs - 1}"
    )


def _row(plan: Plan, stage: PlannedStage) -> tuple[str, ...]:
    share = stage.trainable_parameters / plan.total_parameters
    names = sum(len(group.parameters) for group in plan.groups)
    rates = [rate for name, rate in stage.rates.items() if rate and not name.endswith(NO_DECAY)]
    rates = rates or [rate for rate in stage.rates.values() if rate]
    low, high = min(rates), max(rates)
    rate = f"{high:.1e}" if low == high else f"{low:.1e} to {high:.1e}"
    name = stage.target.rpartition(".")[2] or stage.lr_scheduler
    shape = "" if name == "constant" else f" {name}"
    rise = f", warm-up {stage.warmup_steps} steps" if stage.warmup_steps else ""
    rise = f", warm-up {stage.warmup:g}" if stage.warmup else rise
    more = ", by relative gradient norm" if stage.lr_scale else ""
    more += f", L2-SP {stage.l2_sp:g}" if stage.l2_sp else ""
    more += f", clipped at {stage.gradient_clip_val:g}" if stage.gradient_clip_val else ""
    more += ", not clipped" if stage.gradient_clip_val == 0 else ""
    return (
        stage.name,
        _epochs_words(stage),
        "everything" if len(stage.open) == names else _open_words(plan, stage),
        f"{count_words(stage.trainable_parameters)} ({share:.0%})",
        rate + shape + rise + more,
        {"auto": "eval where frozen", "frozen": "frozen everywhere", "train": "trains everywhere"}[stage.batch_norm],
        _prefix_words(plan, stage),
    )


def _open_words(plan: Plan, stage: PlannedStage) -> str:
    """The open blocks; one that is open in part is marked."""
    frozen = {group.block for group in plan.groups if not stage.rates[group.name]}
    return ", ".join(f"{block} in part" if block in frozen else block for block in stage.open_blocks)


def _prefix_words(plan: Plan, stage: PlannedStage) -> str:
    blocks = plan.blocks[: stage.frozen_prefix]
    if not blocks:
        return "0, images"
    return f"{len(blocks)}, output of {blocks[-1]}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
