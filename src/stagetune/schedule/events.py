"""The events of a schedule, said to every callback of the trainer that has a method of that name.

`on_stage_start(trainer, pl_module, stage)` comes once for each stage, when its blocks are open and its rates are set,
before the first batch. `on_stage_end(trainer, pl_module, stage)` comes once behind its last epoch, after the module's
own `on_train_epoch_end` and before the epoch's checkpoints. Both come in every process. A run that goes on from a
checkpoint within a stage does not start the stage again.
"""

from collections.abc import Callable
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping

from stagetune.schedule.plan import PlannedStage

Event = Literal["on_stage_start", "on_stage_end"]


def announce(event: Event, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
    """Call the method `event` of each callback that has it, in the trainer's order."""
    for callback in list(_callbacks(trainer)):
        method = getattr(callback, event, None)
        if callable(method):
            method(trainer, pl_module, stage)


class EpochEnd(EarlyStopping):
    """Calls `then` behind an epoch, once the module has logged all of its metrics, before it is written.

    Lightning calls callbacks of this kind, and checkpoints, behind the module's own `on_train_epoch_end`.
    """

    def __init__(self, then: Callable[[Trainer, LightningModule], None]) -> None:
        super().__init__("")
        self.then = then

    def setup(self, *_: Any, **__: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def on_validation_end(self, *_: Any) -> None: ...

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.then(trainer, pl_module)


def take_place(trainer: Trainer, first: Callback, end: EpochEnd) -> None:
    """Put a callback before all others, so that they see the stage's state in every hook, and `end` behind them."""
    callbacks = _callbacks(trainer)
    callbacks.remove(first)
    callbacks.insert(0, first)
    leave(trainer, end)
    written = [i for i, callback in enumerate(callbacks) if isinstance(callback, Checkpoint)]
    callbacks.insert(written[0] if written else len(callbacks), end)


def leave(trainer: Trainer, end: EpochEnd) -> None:
    """Take it out again."""
    if end in _callbacks(trainer):
        _callbacks(trainer).remove(end)


def _callbacks(trainer: Any) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks
    return callbacks
