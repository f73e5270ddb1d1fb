"""`StagedUnfreezing`: applies the plan wherever training begins or continues."""

import math
from functools import partial
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim.lr_scheduler import LambdaLR

from stagetune.errors import ScheduleError
from stagetune.schedule.freezing import open_only
from stagetune.schedule.param_groups import regroup, set_rates
from stagetune.schedule.plan import Plan, Stage


class StagedUnfreezing(Callback):
    """Opens and freezes blocks and sets their rates as the plan says; remembers nothing but that plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def state_dict(self) -> dict[str, Any]:
        return {"fingerprint": self.plan.fingerprint()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["fingerprint"] != self.plan.fingerprint():
            raise ScheduleError("the checkpoint was trained with another schedule or model; start a new run")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        regroup(optimizer, pl_module, self.plan)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # a restart within an epoch gets here, but not to on_train_epoch_start
        self._apply(trainer, pl_module, self.plan.at(trainer.current_epoch))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stage = self.plan.at(trainer.current_epoch)
        if trainer.current_epoch == stage.start_epoch:
            if stage.optimizer_state == "reset":
                trainer.optimizers[0].state.clear()
            self._apply(trainer, pl_module, stage)

    def _apply(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        """Make model, optimizer and learning-rate scheduler what `stage` says; may be repeated."""
        open_only(pl_module, set(stage.open), stage.batch_norm)
        (optimizer,) = trainer.optimizers
        set_rates(optimizer, stage)
        steps_per_epoch = math.ceil(int(trainer.num_training_batches) / trainer.accumulate_grad_batches)
        done = trainer.global_step - stage.start_epoch * steps_per_epoch
        factor = partial(stage.lr_factor, steps_per_epoch)
        scheduler = LambdaLR(optimizer, factor, last_epoch=done - 1)
        trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler, interval="step")]
