"""checkpoints/best.ckpt and last.ckpt."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from stagetune.artifacts import RunDir, write_whole
from stagetune.config.schema import CheckpointConfig
from stagetune.errors import ResultError, TrainingError
from stagetune.models.tensor_files import check_whole, read_checkpoint
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage
from stagetune.schedule.progress import is_best
from stagetune.typed import typed


class _Callbacks(TypedDict):
    StagedUnfreezing: dict[str, Any]


class _Last(TypedDict):
    """What of a checkpoint is needed to go on, as far as it is ours to read."""

    epoch: int
    global_step: int
    state_dict: dict[str, torch.Tensor]
    optimizer_states: list[Any]
    callbacks: _Callbacks
    loops: dict[str, Any]


def read_last(run_dir: RunDir) -> dict[str, Any] | None:
    """The last checkpoint of a run, None if it stopped before there was one.

    Raises:
        WeightsError: where it, or the best one that is needed in the end, cannot be read.
        ResultError: where it is none of a run.
    """
    if not run_dir.last.exists():
        return None
    if run_dir.best.exists():
        check_whole(run_dir.best)  # now rather than when all is trained
    checkpoint = read_checkpoint(run_dir.last, mmap=True, instead="start a new run")
    problems: list[str] = []
    typed(_Last, checkpoint, "", problems)
    if problems:
        raise ResultError(f"{run_dir.last} is no checkpoint of a run ({problems[0]}); start a new run")
    return checkpoint


PLAIN = (bool, int, float, complex, str, bytes, type(None))


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes under another name and renames: a crash leaves the old checkpoint whole, never half of a new one."""

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        for name, state in checkpoint.get("callbacks", {}).items():
            if kind := _unreadable(state):
                what = f"a {kind.__module__}.{kind.__qualname__} in its state"
                raise TrainingError(
                    f"callback {name} keeps {what}, and a checkpoint with that is not read again (it could run "
                    "commands); let its state_dict give plain values and tensors"
                )
        with write_whole(path) as file:
            torch.save(checkpoint, file)

    def remove_checkpoint(self, path: str | Path) -> None:
        if ".." not in Path(path).parts:  # a checkpoint says which files its callbacks have written
            super().remove_checkpoint(path)


def _unreadable(value: Any) -> type | None:
    """The kind of what `torch.load` with `weights_only` would not read; None if there is none."""
    if isinstance(value, Mapping):
        return next(filter(None, map(_unreadable, [*value, *value.values()])), None)
    if isinstance(value, list | tuple | set):
        return next(filter(None, map(_unreadable, value)), None)
    is_plain = (
        value is None or type(value) in (bool, int, float, complex, str, bytes) or isinstance(value, torch.Tensor)
    )
    return None if is_plain else type(value)


class BestCheckpoint(Checkpoint):
    """The model of the epoch with the best metric: kept in memory, and written before a last.ckpt that has seen it.

    An epoch over cached features is shorter than writing a checkpoint is.
    """

    def __init__(self, path: Path, monitor: str, mode: str, unfreezing: StagedUnfreezing) -> None:
        self.path, self.monitor, self.mode, self.unfreezing = path, monitor, mode, unfreezing
        self._value: float | None = None
        self._kept: dict[str, Any] | None = None  # the best model, as long as it is not written

    def state_dict(self) -> dict[str, Any]:
        return {"value": self._value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._value = state_dict["value"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        value = float(trainer.callback_metrics[self.monitor])
        before = [] if self._value is None else [self._value]
        if is_best([*before, value], self.mode):
            self._value = value
            if trainer.is_global_zero:
                with self.unfreezing.measured_weights():
                    self._kept = _model(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.write()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.write()

    def write(self) -> None:
        if self._kept is not None:
            AtomicCheckpoints().save_checkpoint(self._kept, self.path)
            self._kept = None


class LastCheckpoint(Checkpoint):
    """last.ckpt at the end of a stage, of an epoch if the one before is old enough, and every so many steps.

    Not on Ctrl-C or an error, which may come in the middle of a step: what is written is always a point from
    which training goes on bit for bit.
    """

    def __init__(self, path: Path, config: CheckpointConfig, best: BestCheckpoint) -> None:
        self.path, self.config, self.best = path, config, best
        self._written = 0.0
        self._is_due = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = self.config.every_n_steps
        has_stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if every is None or not has_stepped or trainer.global_step % every:
            return
        # from a checkpoint after its last batch, Lightning would skip the epoch's validation; its own comes soon
        if not trainer.is_last_batch and not trainer.should_stop:
            self._write(trainer)

    def on_stage_end(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        self._is_due = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        is_old = trainer.strategy.broadcast(time.monotonic() - self._written >= self.config.min_seconds)
        if is_old or trainer.should_stop or self._is_due:
            self._write(trainer)
            self._is_due = False

    def _write(self, trainer: Trainer) -> None:
        self.best.write()
        trainer.save_checkpoint(self.path)
        self._written = time.monotonic()


def _model(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """A checkpoint of the weights as they are now. What is frozen stays as it is until a stage's end, when it is
    written at the latest, and is not copied."""
    weights = pl_module.state_dict()
    frozen = {name for name, parameter in pl_module.named_parameters() if not parameter.requires_grad}
    content = {
        "epoch": trainer.current_epoch,
        "global_step": trainer.global_step,
        "pytorch-lightning_version": lightning.__version__,
        "state_dict": {n: w if n in frozen else w.detach().to("cpu", copy=True) for n, w in weights.items()},
    }
    pl_module.on_save_checkpoint(content)
    return content
