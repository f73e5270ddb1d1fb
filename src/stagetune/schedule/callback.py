"""`StagedUnfreezing`: applies the plan wherever training begins or continues."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from stagetune.errors import ScheduleError
from stagetune.schedule import neighbours
from stagetune.schedule.average import Average, check_decay
from stagetune.schedule.epochs import Epochs
from stagetune.schedule.events import Last, announce, leave, take_place
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.gradients import Anchor, RelativeGradientNorms
from stagetune.schedule.groups import carry_over, regroup, set_rates, settings_of
from stagetune.schedule.load import Given, load_schedule
from stagetune.schedule.lr_schedulers import build_lr_scheduler, plateau_frequency, try_out
from stagetune.schedule.network import Blocks, CameFrozen, network_of
from stagetune.schedule.plan import Plan, PlannedStage
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.resumable import check_resumable
from stagetune.schedule.trial import try_stages
from stagetune.schedule.watch import Watch, Weights
from stagetune.seams import FitLoop, epochs_in, forget_loader, set_lr_scheduler, wrap_again


class StagedUnfreezing(Callback):
    """Opens and freezes blocks of a module's backbone and sets their rates, stage by stage.

    The plan is made as fitting begins, over the parameters and layers that the module has by then, as objects. While
    training runs, other callbacks are told of each stage by `on_stage_start` and `on_stage_end`. Afterwards all of
    the module's `requires_grad` and modes are what they were.

    Args:
        schedule: what `load_schedule` takes: a preset's name, a path, stages, a mapping, a schedule.
        blocks: the backbone's blocks in forward order, see `network_of`; by default its `blocks` or its layers.
        backbone: the attribute of the module that is its pretrained part, such as model.encoder.
        came_frozen: `hold` what came frozen as it is, or `open` it in blocks like the rest; see `network_of`.
        monitor: the metric that stages look at, instead of the schedule's.
        mode: `min` or `max`, which of its values are good, if its name does not say.
        ema: decay of an average of the open parameters, such as 0.999, which validation, checkpoints, `restore_best`
            and the fitted module use; None for none.
        resume_with_new_schedule: go on although the checkpoint was trained by another schedule.

    Raises:
        ScheduleError: here and as fitting begins, for what cannot be done.

    >>> StagedUnfreezing("staged").schedule.name
    'staged'
    """

    plan: Plan  # from `on_fit_start` on

    def __init__(
        self,
        schedule: Given,
        *,
        blocks: Blocks | Sequence[str] | None = None,
        backbone: str = "backbone",
        came_frozen: CameFrozen = "hold",
        monitor: str | None = None,
        mode: str | None = None,
        ema: float | None = None,
        resume_with_new_schedule: bool = False,
    ) -> None:
        self.schedule = load_schedule(schedule, monitor=monitor, mode=mode)
        self.blocks, self.backbone, self.came_frozen = blocks, backbone, came_frozen
        if ema is not None and not 0 < ema < 1:
            raise ScheduleError(f"ema={ema}: is the share that each step keeps; give a number between 0 and 1")
        self.ema, self.accepts_new_schedule = ema, resume_with_new_schedule
        self.stage_starts: list[tuple[int, int]] = []  # epoch and optimizer step at which each stage so far began
        self._is_ended = False  # whether the current stage's end has been announced
        self._ends_early = False  # whether somebody has ended it, whatever the plan says
        self._watch, self._norms, self._epochs = Watch(), RelativeGradientNorms(), Epochs()
        self._last = Last(self._epochs.catch_up, self._end_epoch)
        self._freezing: Freezing | None = None  # while a fit is running
        self._clip_val: float | None = None  # the trainer's own
        self._average: Average | None = None
        self._anchor: Anchor | None = None
        self._module: int | None = None  # that of the latest fit
        self._resumed: dict[str, Any] | None = None  # the checkpoint, until training goes on from it

    # ------------------------------------------------------------------------------------------- for other callbacks

    @property
    def stage(self) -> PlannedStage:
        """The stage that is being trained, or was last; before any, the first."""
        return self.plan.stages[max(len(self.stage_starts) - 1, 0)]

    @property
    def is_within_stage(self) -> bool:
        """Whether a stage has begun and not ended; also after a restart, which does not begin it again."""
        return bool(self.stage_starts) and not self._is_ended

    def end_stage(self) -> None:
        """Let the stage be over when the current epoch is, whatever its length."""
        self._ends_early = True

    @contextmanager
    def measured_weights(self) -> Iterator[None]:
        """Within, the module has the weights that validation measures: averages, where there are any."""
        if self._average is None:
            yield
        else:
            with self._average.applied():
                yield

    def weights(self, pl_module: LightningModule) -> Weights:
        """A copy of those weights, on the CPU."""
        with self.measured_weights():
            return {name: _copy(value) for name, value in pl_module.state_dict().items()}

    def go_back(self, pl_module: LightningModule, weights: Weights) -> None:
        """Let the module have such weights again; an average begins anew from them."""
        pl_module.load_state_dict(weights, strict=pl_module.strict_loading)
        if self._average:
            self._average.restart()

    # ------------------------------------------------------------------------------------------------- before a fit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            neighbours.check_strategy(trainer)
            neighbours.check_callbacks(trainer, self, StagedUnfreezing)
            take_place(trainer, self, self._last)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.state.fn == TrainerFn.FITTING:  # validate() between two fits does not move training
            state = checkpoint["callbacks"].get(self.state_key)
            if state is None:
                raise ScheduleError(
                    "the checkpoint was made without StagedUnfreezing; load its weights and start anew"
                )
            self._resumed = {**checkpoint, "ours": state}

    def on_fit_start(self, trainer: Any, pl_module: LightningModule) -> None:
        optimizer = neighbours.check_optimizer(trainer, pl_module)
        network = network_of(pl_module, self.blocks, backbone=self.backbone, came_frozen=self.came_frozen)
        plan = make_plan(self.schedule, network.model)
        self.plan = plan.shortened(int(trainer.fast_dev_run)) if trainer.fast_dev_run else plan
        neighbours.check_plan(trainer, self.plan)
        self._freezing = Freezing(network)
        self._clip_val = trainer.gradient_clip_val  # of stages that have none of their own
        regroup(optimizer, network, self.plan)
        self._given = settings_of(optimizer)
        self._epochs.begin_fit(trainer, self.plan)
        if self._resumed or trainer.global_step == 0 or self._module != id(pl_module):
            self._module = id(pl_module)
            self.stage_starts, self._is_ended, self._ends_early = [], False, False
            self._watch, self._norms = Watch(), RelativeGradientNorms()
            self._average = Average(network.parameters, self.ema) if self.ema else None
            self._anchor = Anchor(network.parameters, self.plan)
        self._withdraw()  # where the same trainer goes on
        if self._resumed:
            self._take_up(self._resumed, optimizer)
        if self._is_complete:  # nothing is left to train
            self._epochs.end_training(trainer, epochs_in(self._resumed) if self._resumed else None)
            self._finish(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rehearse(trainer, pl_module)
        done = self._epochs.go_on(trainer)
        if done is None:
            self._end_if_over(trainer, pl_module)  # which the process before this one did not come to
        if self._is_complete:
            self._epochs.end_training(trainer)
        elif self.is_within_stage:
            self._apply(trainer)
            if done is not None:
                self._epochs.begin(trainer, self.stage, self._steps_left(trainer), done)
        self._resumed = None

    def _rehearse(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Build or try out all that any stage will need, so that nothing is left to fail later."""
        lengths = self._epochs.begin_training(trainer, self.plan)
        neighbours.check_steps(trainer, self.plan, lambda epoch: self._epochs.steps_in(trainer, epoch))
        if self.ema:
            check_decay(self.ema, sum(length.steps for length in lengths))
        for stage, length in zip(self.plan.stages, lengths, strict=True):
            try_out(stage, trainer.optimizers[0], length)
        assert self._freezing is not None
        try_stages(trainer, pl_module, self._freezing, self.plan)

    # -------------------------------------------------------------------------------------------------- while it runs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._withdraw()
        if not self.is_within_stage:
            self._begin_next(trainer, pl_module)
        elif not self.stage.target:
            self._bring_scheduler(trainer)  # what validation said may have lowered the rates
        self._epochs.begin(trainer, self.stage, self._steps_left(trainer))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._withdraw()
        self._epochs.batch_begins(trainer, batch_idx)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self.stage.l2_sp and self._anchor:
            self._anchor.pull(self.stage.l2_sp)
        if self.stage.lr_scale and self._norms.measure(optimizer, FitLoop(trainer).epoch):
            self._bring_scheduler(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._average:
            self._average.update(trainer.global_step)
            if neighbours.writes_weights_alone(trainer):
                self._average.apply()
        self._epochs.batch_ends(trainer, batch_idx + 1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._average and trainer.state.fn == TrainerFn.FITTING:
            self._average.apply()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            stage = None if trainer.sanity_checking else self.stage
            if self._watch.after_validation(trainer, stage, lambda: self.weights(pl_module)):
                self._step_plateau(trainer)

    def _end_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is due after an epoch, once all of its metrics are logged and before it is written."""
        is_whole = self._epochs.is_whole
        if self._watch.after_epoch(trainer, self.stage, lambda: self.weights(pl_module), is_whole=is_whole):
            self._step_plateau(trainer)
        self._epochs.end(trainer)
        self._end_if_over(trainer, pl_module)
        if self._is_complete:
            self._epochs.end_training(trainer)
        elif is_whole:
            self._watch.check_later(trainer, self.plan.stages[len(self.stage_starts) :])
        if self._average:  # for what is written now
            self._average.apply()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(pl_module)

    # ------------------------------------------------------------------------------------- after it, however it ends

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._withdraw()
        self._release(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            if self._average:  # also where a limit has left nothing to train
                self._average.apply()
            self._release(trainer)

    def _release(self, trainer: Trainer) -> None:
        """Leave nothing of ours on module and trainer."""
        leave(trainer, self._last)
        self._epochs.end_fit(trainer)
        if self._freezing is not None:
            self._freezing.release()
            trainer.gradient_clip_val = self._clip_val
        self._freezing = self._resumed = None

    def state_dict(self) -> dict[str, Any]:
        if self._anchor is None:  # no fit has begun
            return {}
        return {
            "plan": self.plan.as_data(),
            "stage_starts": self.stage_starts,
            "is_ended": self._is_ended,
            "ends_early": self._ends_early,
            "norms": self._norms.state_dict(),
            "anchor": self._anchor.weights,
            "ema": self.ema,
            "average": self._average.state_dict() if self._average else None,
            **self._watch.state_dict(),
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._average and "state_dict" in checkpoint:  # the averages are the model, as in validation
            self._average.put_into(checkpoint["state_dict"], pl_module)

    def _take_up(self, checkpoint: dict[str, Any], optimizer: Optimizer) -> None:
        """Go on where a checkpoint was written."""
        state, states = checkpoint["ours"], checkpoint["optimizer_states"]
        is_new = check_resumable(state, self.plan, accepts_new=self.accepts_new_schedule)
        checkpoint["is_new"] = is_new
        if state["ema"] != self.ema:
            raise ScheduleError(
                f"the run was begun with ema={state['ema']}, not {self.ema}; say it again, or start anew"
            )
        if is_new:
            states[0] = carry_over(states[0], optimizer)  # in the very list that Lightning is about to load
        self.stage_starts = [(epoch, step) for epoch, step in state["stage_starts"]]
        self._ends_early = state["ends_early"]
        first_epoch, first_step = self.stage_starts[-1] if self.stage_starts else (0, 0)
        epochs, steps = epochs_in(checkpoint) - first_epoch, checkpoint["global_step"] - first_step
        if self.stage.steps is not None and (state["is_ended"] or steps >= self.stage.steps):
            forget_loader(checkpoint)
        self._watch.load_state_dict(state)
        is_over = self._ends_early or self.stage.is_over(epochs, steps, self._watch.values)
        self._is_ended = state["is_ended"] and is_over  # it may be longer now
        self._norms.load_state_dict(state["norms"])
        if self._anchor:
            self._anchor.load(state["anchor"])
        if self._average:
            self._average.load_state_dict(state["average"])

    # -------------------------------------------------------------------------------------------- from stage to stage

    @property
    def _is_complete(self) -> bool:
        """Whether the last stage has ended."""
        return self._is_ended and len(self.stage_starts) == len(self.plan.stages)

    def _is_over(self, trainer: Trainer) -> bool:
        first_epoch, first_step = self.stage_starts[-1]
        epochs, steps = FitLoop(trainer).epoch - first_epoch, trainer.global_step - first_step
        return self._ends_early or self.stage.is_over(epochs, steps, self._watch.values)

    def _steps_left(self, trainer: Trainer) -> int:
        return (self.stage.steps or 0) - (trainer.global_step - self.stage_starts[-1][1])

    def _end_if_over(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.is_within_stage and self._is_over(trainer):
            self._is_ended = True
            announce("on_stage_end", trainer, pl_module, self.stage)

    def _begin_next(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stage_starts.append((FitLoop(trainer).epoch, trainer.global_step))
        if self._watch.best is not None:
            self.go_back(pl_module, self._watch.best)
        self._watch.begin()
        self._norms.begin()
        self._is_ended, self._ends_early, self._resumed = False, False, None
        if self.stage.optimizer_state == "reset":
            trainer.optimizers[0].state.clear()
        self._apply(trainer)
        announce("on_stage_start", trainer, pl_module, self.stage)

    def _apply(self, trainer: Trainer) -> None:
        """Make model, optimizer and learning-rate scheduler what the stage says; may be repeated."""
        assert self._freezing is not None
        self._freezing.network.check_complete()
        self._freezing.open_only(set(self.stage.open), self.stage.batch_norm)
        if self._average:
            self._average.open_only(set(self.stage.open), trainer.global_step)
        own = self.stage.gradient_clip_val  # Lightning asks the trainer at every step
        trainer.gradient_clip_val = self._clip_val if own is None else own
        if isinstance(trainer.strategy, DDPStrategy):
            wrap_again(trainer)
        if self._resumed and self.stage.target and not self._resumed["is_new"]:
            self._bring_scheduler(trainer, self._resumed["lr_schedulers"][0])
        else:
            set_rates(trainer.optimizers[0], self._given, self.stage)
            self._bring_scheduler(trainer)

    def _bring_scheduler(self, trainer: Trainer, saved: dict[str, Any] | None = None) -> None:
        first_epoch, first_step = self.stage_starts[-1]
        config = build_lr_scheduler(
            self.stage,
            trainer.optimizers[0],
            self._epochs.length(trainer, self.stage, first_epoch),
            done=trainer.global_step - first_step,
            values=lambda: self._watch.values,
            scale_of=self._norms.of if self.stage.lr_scale else None,
            saved=saved,
        )
        set_lr_scheduler(trainer, config)

    def _step_plateau(self, trainer: Trainer) -> None:
        if len(self._watch.values) % plateau_frequency(self.stage) == 0:
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, ReduceLROnPlateau):
                    config.scheduler.step(self._watch.values[-1])

    def _withdraw(self) -> None:
        """Let the module have the weights that are trained; averages stay from validation to the next batch."""
        if self._average:
            self._average.withdraw()

    def _finish(self, pl_module: LightningModule) -> None:
        """Let the module have the weights that training ends with."""
        if self._is_complete and self._watch.best is not None:
            self.go_back(pl_module, self._watch.best)
        if self._average:
            self._average.apply()


def _copy(value: Any) -> Any:
    """A tensor on the CPU, or what a module keeps beside its tensors."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else deepcopy(value)
