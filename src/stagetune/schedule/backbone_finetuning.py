"""Lightning's BackboneFinetuning under its own parameter names, put into stages. Pure, no torch."""

from dataclasses import dataclass

from stagetune.schedule.spec import Stage
from stagetune.typed import number

MOST_EPOCHS = 10_000  # each may be a stage of its own


@dataclass
class BackboneFinetuning:
    """The arguments of that callback, with two more for what there belongs to optimizer and Trainer.

    Attributes:
        unfreeze_backbone_at_epoch: the head is trained alone before.
        backbone_initial_ratio_lr: the backbone begins at this share of `lr`; None: `initial_denom_lr` decides.
        backbone_initial_lr: the rate that it begins at; decides before the ratio.
        lambda_func: the factor by which its rate grows at every epoch.
        should_align: whether it stays at or below the head's rate.
        initial_denom_lr: without rate and ratio, the backbone begins at `lr` divided by this.
        train_bn: whether BatchNorm trains from the first epoch; if not, it is frozen throughout.
        lr: the head's rate.
        epochs: of the whole run.
    """

    unfreeze_backbone_at_epoch: int = number(10, 1)
    backbone_initial_ratio_lr: float | None = number(0.1, 0)
    backbone_initial_lr: float | None = number(None, 0)
    lambda_func: float = number(2.0, 0)
    should_align: bool = True
    initial_denom_lr: float = number(10.0, 0)
    train_bn: bool = True
    lr: float = number(1e-3, 0)
    epochs: int = number(20, 1, MOST_EPOCHS)


def stages_of(recipe: BackboneFinetuning) -> list[Stage]:
    """What the callback's documentation says that it does, as stages.

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
