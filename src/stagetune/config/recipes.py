"""Schedules that are given in other words than stages, put into stages. Pure, no torch."""

from dataclasses import replace

from stagetune.config.schedule_file import read_schedule
from stagetune.config.schema import BackboneFinetuning, Schedule, Stage


def expand(schedule: Schedule) -> Schedule:
    """The schedule with its stages written out; raises `ScheduleError` for a file that cannot be read."""
    if schedule.file is not None:
        read = read_schedule(schedule.file)
        return replace(read, monitor=read.monitor or schedule.monitor, mode=read.mode or schedule.mode)
    if schedule.backbone_finetuning is not None:
        return replace(schedule, stages=backbone_finetuning(schedule.backbone_finetuning))
    return schedule


def backbone_finetuning(recipe: BackboneFinetuning) -> list[Stage]:
    """What Lightning's callback of that name says that it does, as stages.

    The head is trained alone; then the backbone joins at a lower rate, which is multiplied by `lambda_func` at
    every epoch and, with `should_align`, never passes the head's.
    """
    frozen, joined = ("train", "auto") if recipe.train_bn else ("frozen", "frozen")
    begin = min(recipe.unfreeze_backbone_at_epoch, recipe.epochs)
    stages = [Stage("head", ["head"], epochs=begin, lr=recipe.lr, batch_norm=frozen)]
    rate = _first_rate(recipe)
    for epoch in range(begin, recipe.epochs):
        lrs = {"head": recipe.lr, "all": rate}
        if len(stages) > 1 and stages[-1].lrs == lrs:
            stages[-1].epochs = (stages[-1].epochs or 0) + 1
        else:
            opens = ["all"] if len(stages) == 1 else []
            stages.append(Stage(f"epoch_{epoch}", opens, epochs=1, lrs=lrs, batch_norm=joined))
        rate *= recipe.lambda_func
        if recipe.should_align:
            rate = min(rate, recipe.lr)
    return stages


def _first_rate(recipe: BackboneFinetuning) -> float:
    if recipe.backbone_initial_lr is not None:
        return recipe.backbone_initial_lr
    if recipe.backbone_initial_ratio_lr is not None:
        return recipe.lr * recipe.backbone_initial_ratio_lr
    return recipe.lr / recipe.initial_denom_lr
