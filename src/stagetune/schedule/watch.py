"""The metric that a stage looks at: its values so far, and the weights that were best."""

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor

from stagetune.errors import ScheduleError
from stagetune.schedule.plan import PlannedStage
from stagetune.schedule.progress import is_best
from stagetune.seams import FitLoop, measured_now

Weights = dict[str, Tensor]


class Watch:
    """Values by the batch after which they were measured, one for each validation.

    A metric that training logs has one for each epoch.
    """

    def __init__(self) -> None:
        self._values: dict[int, float] = {}
        self.best: Weights | None = None  # the weights to go back to at the end of the stage
        self._in_validation: set[str] = set()  # names that validation logs
        self._has_validated = False  # in this process

    @property
    def values(self) -> list[float]:
        return list(self._values.values())

    def begin(self) -> None:
        """Forget the stage before."""
        self._values, self.best = {}, None

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values, "best": self.best, "in_validation": sorted(self._in_validation)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._values, self.best = dict(state["values"]), state["best"]
        self._in_validation = set(state["in_validation"])

    def after_validation(self, trainer: Trainer, stage: PlannedStage | None, weights: Callable[[], Weights]) -> bool:
        """Take the value that this validation measured; whether there is one."""
        measured = measured_now(trainer)
        self._in_validation.update(measured)
        self._has_validated |= not trainer.sanity_checking
        if stage is None or not stage.is_watched or stage.monitor not in measured:
            return False
        self._take(trainer, stage, float(measured[str(stage.monitor)]), weights)
        return True

    def after_epoch(
        self, trainer: Trainer, stage: PlannedStage, weights: Callable[[], Weights], *, is_whole: bool
    ) -> bool:
        """Take this epoch's value of a metric that training logs; whether there is one.

        Args:
            trainer: after an epoch.
            stage: the one that is trained.
            weights: gives a copy of what was measured.
            is_whole: whether this process has seen all of the epoch: what a restart had logged before is lost.

        Raises:
            ScheduleError: for a metric that neither training nor validation has logged by now.
        """
        if not stage.is_watched or stage.monitor in self._in_validation:
            return False
        if not is_whole:
            if stage.monitor in trainer.callback_metrics:
                rank_zero_warn(f"{stage.monitor} of this epoch is lost, which a restart has cut in two")
            return False
        if stage.monitor not in trainer.callback_metrics:
            if self._validates_later(trainer):
                return False
            raise ScheduleError(_missing(trainer, stage))
        self._take(trainer, stage, float(trainer.callback_metrics[stage.monitor]), weights)
        return True

    def check_later(self, trainer: Trainer, stages: Sequence[PlannedStage]) -> None:
        """Raise `ScheduleError` for a later stage's metric that a whole epoch has not measured."""
        measured = self._in_validation.union(trainer.callback_metrics)
        for stage in stages:
            if stage.is_watched and stage.monitor not in measured and not self._validates_later(trainer):
                raise ScheduleError(_missing(trainer, stage))

    def _validates_later(self, trainer: Trainer) -> bool:
        """Whether the first validation has yet to come, which may log what training does not."""
        return trainer.enable_validation and not self._has_validated

    def _take(self, trainer: Trainer, stage: PlannedStage, value: float, weights: Callable[[], Weights]) -> None:
        self._values[FitLoop(trainer).last_batch_in_all] = trainer.strategy.broadcast(value)
        if stage.restore_best and is_best(self.values, str(stage.mode)):
            self.best = weights()


def _missing(trainer: Trainer, stage: PlannedStage) -> str:
    measured = ", ".join(sorted(trainer.callback_metrics)) or "none"
    return f"stage {stage.name} looks at {stage.monitor}, measured are: {measured}"
