"""A loss or a gradient that is no number: the run ends, or the step of the optimizer is left out."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from stagetune.errors import TrainingError
from stagetune.run.recorder import LOSS_CHECK_BATCHES
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage

MOST_IN_A_ROW = 10  # steps that are left out; with more there is nothing to wait for
REMEDIES = "lower the stage's lr, add +trainer.gradient_clip_val=1.0, or use precision=fp32"


class NonFinite(Callback):
    """Looks at each step's losses and gradients before the optimizer does.

    A step that is left out changes nothing: weights, the optimizer's state and the statistics of BatchNorm are as
    before its batches. It counts as a step all the same, for a stage's length and for its rates. All processes agree.
    In fp16 the scaler looks at the gradients itself, and leaves out steps that overflow.

    Args:
        unfreezing: knows which stage is trained.
        skips: leave steps out, instead of ending the run.
        say: is told of the first step of a stage that is left out, and of how many there were.
    """

    def __init__(self, unfreezing: StagedUnfreezing, *, skips: bool, say: Callable[[str], None]) -> None:
        self.unfreezing, self.skips, self._say = unfreezing, skips, say
        self.skipped: dict[str, int] = {}  # steps, by stage
        self._in_a_row = self._steps = self._skipped = 0  # the last two of this epoch
        self._losses: list[Tensor] = []  # of the step's batches
        self._buffers: dict[str, Tensor] = {}  # before them
        self._unseen: list[Tensor] = []  # whether steps were finite, which a GPU is not waited for

    def state_dict(self) -> dict[str, Any]:
        kept = {"skipped": self.skipped, "in_a_row": self._in_a_row, "epoch": (self._steps, self._skipped)}
        return kept if self.skips else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self._in_a_row = dict(state_dict["skipped"]), state_dict["in_a_row"]
        self._steps, self._skipped = state_dict["epoch"]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._steps = self._skipped = 0
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._losses = []
            if self.skips:
                self._buffers = {name: buffer.clone() for name, buffer in pl_module.named_buffers()}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        finite = self._finite(trainer, optimizer)
        self._steps += 1
        if not self.skips:
            self._unseen.append(finite)
            if len(self._unseen) == (1 if pl_module.device.type == "cpu" else LOSS_CHECK_BATCHES):
                self._look(trainer)
        elif trainer.strategy.reduce((~finite).float(), reduce_op="sum") > 0:
            self._skip(trainer, pl_module, optimizer)
        else:
            self._in_a_row = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)
        if self._skipped and self._skipped == self._steps:
            place = f"epoch {trainer.current_epoch}, in stage {self.unfreezing.stage.name}"
            raise TrainingError(f"all {self._steps} steps of {place}, were left out (on_nan=skip_step); {REMEDIES}")

    def on_stage_end(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        if (count := self.skipped.get(stage.name, 0)) > 1:
            self._say(f"{count} steps of stage {stage.name} were left out")

    def _finite(self, trainer: Trainer, optimizer: Optimizer) -> Tensor:
        """Whether the step's losses, and its gradients where nobody else looks at them, are numbers."""
        losses = torch.stack(self._losses) if self._losses else torch.zeros(1, device=trainer.strategy.root_device)
        finite = losses.isfinite().all()
        if trainer.scaler is not None:
            return finite
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).to(finite.device)
        # what is infinite is a number again once it is clipped
        return finite & (~norm.isnan() if trainer.gradient_clip_algorithm == "value" else norm.isfinite())

    def _look(self, trainer: Trainer) -> None:
        seen, self._unseen = self._unseen, []
        if seen and not torch.stack(seen).all() and torch.stack(self._losses).isfinite().all():
            raise TrainingError(  # where the loss is none, the recorder says so with its batch
                f"a gradient is no number in {self._place(trainer)}, though the loss is "
                f"{float(self._losses[-1] * trainer.accumulate_grad_batches):.4g}; {REMEDIES}; on_nan=skip_step "
                "leaves out single steps"
            )

    def _skip(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # what has none is not touched, nor its state
        for name, buffer in pl_module.named_buffers():
            if name in self._buffers:
                buffer.copy_(self._buffers[name])
        stage = self.unfreezing.stage.name
        self.skipped[stage] = self.skipped.get(stage, 0) + 1
        self._in_a_row, self._skipped = self._in_a_row + 1, self._skipped + 1
        if self.skipped[stage] == 1:
            self._say(f"a step is left out, whose loss or gradient is no number, in {self._place(trainer)}")
        if self._in_a_row == MOST_IN_A_ROW:
            raise TrainingError(
                f"{MOST_IN_A_ROW} steps in a row were left out (on_nan=skip_step), the last in "
                f"{self._place(trainer)}; {REMEDIES}"
            )

    def _place(self, trainer: Trainer) -> str:
        stage = self.unfreezing.stage.name
        return f"stage {stage}, epoch {trainer.current_epoch}, step {self._steps}"
