"""Gradient accumulation over batches that do not divide evenly."""

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer

from stagetune.seams import FitLoop


class LeftoverBatches(Callback):
    """Makes the last, shorter window of an epoch a mean over its own batches.

    Lightning steps on what is left at the end of an epoch, but divides it by the full window, so that its
    gradient would come out too small.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        window = trainer.accumulate_grad_batches
        done = FitLoop(trainer).batch_index + 1
        if left := done % window:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(window / left)
