"""`StagedUnfreezing`: applies the plan wherever training begins or continues."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from stagetune.config.presets import as_schedule
from stagetune.config.schema import Schedule, Stage
from stagetune.errors import ScheduleError
from stagetune.schedule.freezing import Blocks, describe, open_only
from stagetune.schedule.lr_schedulers import bring_lr_scheduler
from stagetune.schedule.param_groups import carry_over, regroup, set_rates, settings_of
from stagetune.schedule.plan import Plan, PlannedStage, check_same_plan
from stagetune.schedule.progress import is_best
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.trainer_rules import check_strategy, check_trainer


class StagedUnfreezing(Callback):
    """Opens and freezes blocks of `module.backbone` and sets their rates, stage by stage.

    `schedule` is a schedule, a list of stages, the name of a preset or the path of a YAML file. `blocks` names the
    backbone's blocks in forward order, by default its `blocks` or its layers. `monitor` is the metric that stages
    look at; `mode` says whether `min` or `max` is good, if its name does not. Raises `ScheduleError` as fitting
    begins for what cannot be done.
    """

    plan: Plan  # from `setup` on

    def __init__(
        self,
        schedule: Schedule | Sequence[Stage] | str | Path,
        *,
        blocks: Blocks | Sequence[str] | None = None,
        monitor: str | None = None,
        mode: str | None = None,
        resume_with_new_schedule: bool = False,
    ) -> None:
        self.schedule = as_schedule(schedule, monitor, mode)
        self.blocks, self.accepts_new_schedule = blocks, resume_with_new_schedule
        self.began: list[tuple[int, int]] = []  # epoch and optimizer step at which each stage so far began
        self._values: dict[int, float] = {}  # the monitored metric in each epoch of the stage
        self._best: dict[str, Tensor] | None = None  # the weights to go back to at the end of the stage
        self._cuts_epoch = False
        self._is_ended = False  # by somebody else, whatever the plan says
        self._resumed: dict[str, Any] | None = None  # the checkpoint, until training goes on from it

    @property
    def stage(self) -> PlannedStage:
        """The stage that is being trained."""
        return self.plan.stages[len(self.began) - 1]

    def is_last_epoch(self, trainer: Trainer) -> bool:
        """Whether the stage is over when the current epoch is; known at its end."""
        return self._is_over(trainer.current_epoch + 1, trainer.global_step)

    def end_stage(self, trainer: Trainer) -> None:
        """Let the stage be over when the current epoch is, whatever its length; to be called at the epoch's end."""
        self._is_ended = True
        trainer.should_stop |= self.stage is self.plan.stages[-1]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            check_strategy(trainer)
            self.plan = make_plan(self.schedule, describe(pl_module, self.blocks))

    def state_dict(self) -> dict[str, Any]:
        state = {"began": self.began, "values": self._values, "best": self._best, "is_ended": self._is_ended}
        return {"plan": self.plan.as_data(), **state}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return  # validate() between two fits does not move training
        state = checkpoint["callbacks"].get(self.state_key)
        if state is None:
            raise ScheduleError("the checkpoint was made without StagedUnfreezing; load its weights and start anew")
        is_new = state["plan"] != self.plan.as_data()
        if is_new and not (self.accepts_new_schedule and len(state["began"]) <= len(self.plan.stages)):
            check_same_plan(state["plan"], self.plan)
        self.began = [(epoch, step) for epoch, step in state["began"]]
        self._values, self._best, self._is_ended = dict(state["values"]), state["best"], state["is_ended"]
        self._resumed = {**checkpoint, "new_schedule": is_new}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        check_trainer(trainer, self.plan)
        (optimizer,) = trainer.optimizers
        regroup(optimizer, pl_module, self.plan)
        self._given = settings_of(optimizer)
        if self._resumed and self._resumed["new_schedule"]:
            states = self._resumed["optimizer_states"]  # the very list that Lightning is about to load
            states[0] = carry_over(states[0], optimizer)
        is_new = self._resumed is not None and self._resumed["new_schedule"]  # earlier stages had other lengths
        trainer.fit_loop.max_epochs = -1 if self.plan.epochs is None or is_new else self.plan.epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed is None and trainer.global_step == 0:
            self.began, self._values, self._best, self._is_ended = [], {}, None, False
        epochs: Any = trainer.fit_loop.epoch_progress.current
        is_within_epoch = epochs.ready > epochs.processed  # a restart there gets no on_train_epoch_start
        is_over = bool(self.began) and self._is_over(trainer.current_epoch, trainer.global_step)
        if is_over and is_within_epoch and self.stage.steps is not None:
            raise ScheduleError(f"the checkpoint is from the last step of stage {self.stage.name}; take another one")
        if not self.began or (is_over and not is_within_epoch):
            self._begin_next(trainer, pl_module)
        else:
            self._apply(trainer, pl_module)
        self._resumed = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_over(trainer.current_epoch, trainer.global_step):
            self._begin_next(trainer, pl_module)
        elif not self.stage.target:
            self._bring_scheduler(trainer)  # what validation said may have lowered the rates

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.stage.steps is not None and not trainer.should_stop and self.is_last_epoch(trainer):
            trainer.should_stop = self._cuts_epoch = True  # Lightning validates and ends the epoch here

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._record(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.enable_validation:
            self._record(trainer, pl_module)
        value = self._values.get(trainer.current_epoch)
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, ReduceLROnPlateau) and value is not None:
                config.scheduler.step(value)
        if self._cuts_epoch:
            trainer.should_stop = self._cuts_epoch = False
        if self.stage is self.plan.stages[-1] and self.is_last_epoch(trainer):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._best is not None and self._is_over(trainer.current_epoch, trainer.global_step):
            pl_module.load_state_dict(self._best)

    def _is_over(self, epoch: int, step: int) -> bool:
        first_epoch, first_step = self.began[-1]
        return self._is_ended or self.stage.is_over(
            epoch - first_epoch, step - first_step, list(self._values.values())
        )

    def _record(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the metric that the stage looks at and, where it may go back to them, the best weights."""
        if not self.stage.is_watched:
            return
        if self.stage.monitor not in trainer.callback_metrics:
            measured = ", ".join(sorted(trainer.callback_metrics)) or "none"
            raise ScheduleError(f"stage {self.stage.name} looks at {self.stage.monitor}, measured are: {measured}")
        value = float(trainer.callback_metrics[self.stage.monitor])
        self._values[trainer.current_epoch] = trainer.strategy.broadcast(value)
        if self.stage.restore_best and is_best(list(self._values.values()), str(self.stage.mode)):
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in pl_module.state_dict().items()}

    def _begin_next(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self.began) == len(self.plan.stages):
            trainer.should_stop = True  # the checkpoint is from the very end
            return
        self.began.append((trainer.current_epoch, trainer.global_step))
        if self._best is not None:
            pl_module.load_state_dict(self._best)
        self._values, self._best, self._resumed, self._is_ended = {}, None, None, False
        if self.stage.optimizer_state == "reset":
            trainer.optimizers[0].state.clear()
        self._apply(trainer, pl_module)

    def _apply(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make model, optimizer and learning-rate scheduler what the stage says; may be repeated."""
        open_only(pl_module, set(self.stage.open), self.stage.batch_norm, self.blocks)
        if isinstance(trainer.strategy, DDPStrategy):  # its reducer knows only what was trainable when it wrapped
            trainer.strategy.model = trainer.strategy.lightning_module
            trainer.strategy.configure_ddp()
        if self._resumed and self.stage.target and not self._resumed["new_schedule"]:
            self._bring_scheduler(trainer, self._resumed["lr_schedulers"][0])
        else:
            set_rates(trainer.optimizers[0], self._given, self.stage)
            self._bring_scheduler(trainer)

    def _bring_scheduler(self, trainer: Trainer, saved: dict[str, Any] | None = None) -> None:
        bring_lr_scheduler(trainer, self.stage, self.began[-1][1], lambda: list(self._values.values()), saved)
