"""A run that is told to end does so at once, in each of its processes."""

from lightning.pytorch import Callback, LightningModule, Trainer

from stagetune.interrupts import hear_again


class Stopping(Callback):
    """Takes SIGTERM back from Lightning, which would broadcast it from within the handler.

    Processes that are not at the same step then wait for each other until they are killed.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hear_again()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        hear_again()
