"""What a Trainer and its module must be like for stages to keep their promises."""

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from stagetune.errors import ScheduleError
from stagetune.schedule.plan import Plan

UNSET_MAX_EPOCHS = (None, -1, 1000)  # 1000 is what Lightning takes if nobody says


def check_strategy(trainer: Trainer) -> None:
    """Raise `ScheduleError` for strategies whose parameters cannot be freed one by one."""
    kind = type(trainer.strategy)
    if not issubclass(kind, SingleDeviceStrategy | DDPStrategy) or issubclass(kind, DeepSpeedStrategy):
        raise ScheduleError(f"{kind.__name__} binds parameters together that stages free singly; use 'ddp'")


def check_trainer(trainer: Trainer, plan: Plan) -> None:
    """Raise `ScheduleError` for optimizers, schedulers, lengths and validations that contradict the plan."""
    if len(trainer.optimizers) != 1 or trainer.lr_scheduler_configs:
        raise ScheduleError("configure_optimizers must give one optimizer and no scheduler; stages bring theirs")
    if trainer.max_epochs not in (*UNSET_MAX_EPOCHS, plan.epochs):
        length = f"{plan.epochs} epochs" if plan.epochs else "a length in steps"
        raise ScheduleError(f"Trainer(max_epochs={trainer.max_epochs}): the schedule has {length}; leave it out")
    if trainer.val_check_interval != 1.0 and any(stage.is_watched for stage in plan.stages):
        raise ScheduleError("stages look at a metric once an epoch; leave Trainer(val_check_interval) out")
