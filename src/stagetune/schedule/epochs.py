"""The trainer's epochs: how many there are, how many optimizer steps each takes, where one of them is cut short."""

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning_utilities.core.rank_zero import rank_zero_warn

from stagetune.errors import ScheduleError
from stagetune.schedule.plan import Length, Plan, PlannedStage
from stagetune.seams import FitLoop, callbacks_of

UNSET_MAX_EPOCHS = (None, -1, 1000)  # 1000 is what Lightning takes if nobody says


class Epochs:
    """Sets the trainer's limits for as long as a fit lasts.

    The epoch in which a stage of steps is over ends with its last batch, as if the loader did, and is validated
    there; training ends with the plan by its number of epochs. So `trainer.should_stop` stays what others make of
    it, and what a person has set as the most is the most.
    """

    def __init__(self) -> None:
        self.batches: float = 0  # of a whole epoch
        self.is_whole = True  # whether this process has seen all of the epoch
        self._cut: int | None = None
        self._limits: tuple[int | None, int] | None = None  # the trainer's own
        self._validation: tuple[Any, Any] | None = None  # its settings of when to validate, while they are others
        self._is_unvalidated = self._is_unended = False  # what a restart after a batch has left out
        self._is_unsaid = False  # whether nobody has begun the epoch in which a restart goes on

    # ------------------------------------------------------------------------------------------------------- of a fit

    def begin_fit(self, trainer: Any, plan: Plan) -> None:
        """Let nobody but the plan, and what a person has set, end training."""
        loop = FitLoop(trainer)
        most, steps = self._limits = loop.limits
        asked = None if most in UNSET_MAX_EPOCHS else most
        if trainer.fast_dev_run:  # Lightning's limits there are for one epoch, the plan has one for each stage
            asked, steps = None, -1
        if asked is not None and plan.epochs is not None and asked < plan.epochs:
            rank_zero_warn(f"Trainer(max_epochs={asked}) ends training before the schedule, which has {plan.epochs}")
        loop.limit(-1 if asked is None else asked, steps)

    def begin_training(self, trainer: Trainer, plan: Plan) -> list[Length]:
        """The length of each stage, now that the data is there."""
        self.batches = FitLoop(trainer).batches
        lengths, epoch = [], 0
        for stage in plan.stages:
            lengths.append(self.length(trainer, stage, epoch))
            epoch += lengths[-1].epochs
        if -1 < trainer.max_steps < sum(length.steps for length in lengths):
            rank_zero_warn(f"Trainer(max_steps={trainer.max_steps}) ends training before the schedule does")
        return lengths

    def end_training(self, trainer: Trainer, epochs: int | None = None) -> None:
        """Let no other epoch begin, or none after so many. Not by `should_stop`, which `min_epochs` overrules."""
        loop = FitLoop(trainer)
        loop.end_after(loop.epoch if epochs is None else epochs)

    def end_fit(self, trainer: Trainer) -> None:
        """Give the trainer its own limits back."""
        self.end(trainer)
        if self._limits is not None:
            FitLoop(trainer).limit(*self._limits)
        self._limits = None

    # --------------------------------------------------------------------------------------------------- of one epoch

    def begin(self, trainer: Trainer, stage: PlannedStage, steps_left: int, done: int | None = None) -> None:
        """Say where the epoch that begins ends, or the one that goes on after `done` batches.

        Args:
            trainer: whose fit loop it is.
            stage: the one that is trained.
            steps_left: optimizer steps until it is over, if it is given in steps.
            done: batches of the epoch so far, after a restart.
        """
        self.end(trainer)
        loop = FitLoop(trainer)
        self.batches, self.is_whole = loop.batches, done is None
        self._is_unsaid, done = not self.is_whole, done or 0
        if stage.steps is not None:
            window = _accumulation(trainer, loop.epoch)
            last = done - done % window + steps_left * window
            self._cut = last if last < self.batches else None
            self.batch_ends(trainer, done)

    def go_on(self, trainer: Trainer) -> int | None:
        """The batches that are done of an epoch within which a restart goes on; None if another begins.

        After an epoch's last batch, at the start of one, and after its end where `max_steps` is set, Lightning
        skips the epoch's end, goes on as if within it, or lets one go by without batches (findings/). Not here.
        """
        loop = FitLoop(trainer)
        if loop.is_restarted_at_epoch_start:
            loop.forget_restart_of_batches()
        if not (loop.is_restarted_within_epoch or loop.is_restarted_at_epoch_end):
            return None
        if loop.is_within_epoch:
            self._is_unvalidated = loop.is_restarted_after_batch
            return loop.batches_done
        if loop.is_restarted_within_epoch:  # after its last batch
            loop.reopen_epoch()
            self._is_unvalidated = self._is_unended = True
            return loop.batches_done
        loop.complete_epoch()
        loop.begin_epoch_anew()
        return None

    def catch_up(self, trainer: Any, pl_module: LightningModule) -> None:
        """Validate where a restart after a batch has left that out, and end the epoch if it was its last one.

        To be called once all callbacks are there.
        """
        loop, was_last = FitLoop(trainer), self._is_unended
        if self._is_unvalidated:
            loop.validate_if_due()
        self._is_unvalidated = self._is_unended = False
        if was_last:
            self._is_unsaid = False
            loop.end_epoch()
            loop.begin_epoch_anew()

    def batch_begins(self, trainer: Trainer, batch_idx: int) -> None:
        """To be told before each batch: the last one of an epoch that is cut is the last one for Lightning."""
        if self._is_unsaid:  # of a restart within an epoch, which nobody else has begun
            trainer.accumulate_grad_batches = _accumulation(trainer, FitLoop(trainer).epoch)
            self._is_unsaid = False
        if batch_idx + 1 == self._cut:
            FitLoop(trainer).call_batch_last()

    def batch_ends(self, trainer: Any, done: int) -> None:
        """To be told after each batch: validation comes after the last one of an epoch that is cut."""
        if done != self._cut:
            return
        loop = FitLoop(trainer)
        loop.call_batch_last()  # once more: a step that takes batches itself resets it
        if self._validation is None:
            self._validation = loop.validate_after_batch()

    def end(self, trainer: Any) -> None:
        """Let the next epoch have its whole length."""
        if self._validation is not None:
            FitLoop(trainer).validate_as_set(self._validation)
        self._cut = self._validation = None

    # ----------------------------------------------------------------------------------------------------- of a stage

    def length(self, trainer: Trainer, stage: PlannedStage, first_epoch: int) -> Length:
        """How long a stage is that begins in that epoch; raises `ScheduleError` where the data has no length."""
        shape = not stage.target and stage.lr_scheduler not in ("constant", "plateau")
        if math.isinf(self.batches) and stage.steps is None and (stage.warmup or shape):
            raise ScheduleError(f"stage {stage.name} needs the length of an epoch, the data has none; give it steps")
        return stage.length(lambda i: self.steps_in(trainer, first_epoch + i) or stage.steps or 0)

    def steps_in(self, trainer: Trainer, epoch: int) -> int:
        """The optimizer steps of a whole epoch, of which the last may have fewer batches; 0 if it has no end."""
        return math.ceil(self.batches / _accumulation(trainer, epoch)) if math.isfinite(self.batches) else 0


def _accumulation(trainer: Trainer, epoch: int) -> int:
    """How many batches make an optimizer step in an epoch."""
    for callback in callbacks_of(trainer):
        if isinstance(callback, GradientAccumulationScheduler):
            return callback.get_accumulate_grad_batches(epoch)
    return trainer.accumulate_grad_batches
