"""checkpoints/best.ckpt and last.ckpt."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from stagetune.config.schema import LOWER_IS_BETTER


class LastCheckpoint(ModelCheckpoint):
    """last.ckpt at the end of each epoch and on Ctrl-C; not after an error, which may have spoilt the weights."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt):
            super().on_exception(trainer, pl_module, exception)


def checkpoint_callbacks(folder: Path, monitor: str) -> tuple[ModelCheckpoint, list[Callback]]:
    """The callback of best.ckpt, and all callbacks."""
    best = ModelCheckpoint(
        folder, filename="best", monitor=monitor, mode=mode_of(monitor), auto_insert_metric_name=False
    )
    last = LastCheckpoint(folder, filename="last", save_on_exception=True, auto_insert_metric_name=False)
    return best, [best, last]


def mode_of(metric: str) -> str:
    """`min` for losses and error rates, `max` for all else."""
    return "min" if metric.split("/")[-1] in LOWER_IS_BETTER else "max"
