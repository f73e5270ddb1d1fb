"""The plan as a table of plain text: the screen and plan.txt."""

from stagetune.schedule.plan import NO_DECAY, Plan, Stage


def plan_table(plan: Plan) -> str:
    """One line per stage: epochs, open blocks, trainable parameters, learning rates."""
    rows = [("stage", "epochs", "open", "trainable", "learning rate")]
    rows += [_row(plan, stage) for stage in plan.stages]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def plan_text(plan: Plan) -> str:
    """plan.txt: the table, then the rate of every group in every stage."""
    lines = [
        f"schedule {plan.name}: {len(plan.stages)} stages, {plan.epochs} epochs",
        "",
        plan_table(plan),
        "",
    ]
    width = max(len(group.name) for group in plan.groups)
    lines.append("  ".join(["group".ljust(width), "parameters", *(stage.name.rjust(9) for stage in plan.stages)]))
    for group in plan.groups:
        rates = [f"{stage.rates[group.name]:.2e}" if stage.rates[group.name] else "frozen" for stage in plan.stages]
        cells = [rate.rjust(max(9, len(stage.name))) for rate, stage in zip(rates, plan.stages, strict=True)]
        lines.append("  ".join([group.name.ljust(width), str(len(group.parameters)).rjust(10), *cells]))
    lines += ["", "frozen blocks are in eval mode and do not change by a bit, their BatchNorm included"]
    return "\n".join(lines) + "\n"


def _row(plan: Plan, stage: Stage) -> tuple[str, str, str, str, str]:
    share = stage.trainable_parameters / plan.total_parameters
    rates = [rate for name, rate in stage.rates.items() if rate and not name.endswith(NO_DECAY)]
    low, high = min(rates), max(rates)
    rate = f"{high:.1e}" if low == high else f"{low:.1e} to {high:.1e}"
    return (
        stage.name,
        f"{stage.start_epoch}-{stage.end_epoch - 1}",
        ", ".join(stage.open_blocks) if len(stage.open_blocks) <= len(plan.blocks) else "everything",
        f"{count_words(stage.trainable_parameters)} ({share:.0%})",
        rate if stage.lr_scheduler == "constant" else f"{rate} {stage.lr_scheduler}",
    )


def count_words(count: int) -> str:
    """1234567 -> 1.2M."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)
