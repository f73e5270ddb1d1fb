"""The events of a schedule, said to every callback of the trainer that has a method of that name.

`on_stage_start(trainer, pl_module, stage)` comes once for each stage, when its blocks are open and its rates are set,
before the first batch. `on_stage_end(trainer, pl_module, stage)` comes once after its last epoch, after the module's
own `on_train_epoch_end` and before the epoch's checkpoints. Both come in every process. A run that goes on from a
checkpoint within a stage does not start the stage again.
"""

from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from stagetune.schedule.plan import PlannedStage
from stagetune.seams import callbacks_of

Event = Literal["on_stage_start", "on_stage_end"]


def announce(event: Event, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
    """Call the method `event` of each callback that has it, in the trainer's order."""
    for callback in list(callbacks_of(trainer)):
        method = getattr(callback, event, None)
        if callable(method):
            method(trainer, pl_module, stage)


Hook = Callable[[Trainer, LightningModule], None]


class Last(EarlyStopping):
    """Calls a function where all but the checkpoints have begun, and one after each epoch, before it is written.

    Lightning calls callbacks of this kind, and checkpoints, after the module's own `on_train_epoch_end`, when it has
    logged all of its metrics.
    """

    def __init__(self, begun: Hook, epoch_ended: Hook) -> None:
        super().__init__("")
        self.begun, self.epoch_ended = begun, epoch_ended

    def setup(self, *_: Any, **__: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def on_validation_end(self, *_: Any) -> None: ...

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_ended(trainer, pl_module)


def take_place(trainer: Trainer, first: Callback, last: Last) -> None:
    """Put a callback before all others, so that they see the stage's state in every hook, and `last` after them."""
    callbacks = callbacks_of(trainer)
    callbacks.remove(first)
    callbacks.insert(0, first)
    leave(trainer, last)
    written = [i for i, callback in enumerate(callbacks) if isinstance(callback, Checkpoint)]
    callbacks.insert(written[0] if written else len(callbacks), last)


def leave(trainer: Trainer, last: Last) -> None:
    """Take it out again."""
    if last in callbacks_of(trainer):
        callbacks_of(trainer).remove(last)
