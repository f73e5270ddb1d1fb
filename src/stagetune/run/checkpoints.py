"""checkpoints/best.ckpt and last.ckpt."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from stagetune.config.schema import mode_of

LAST = Path("checkpoints") / "last.ckpt"


def read_last(run_dir: Path) -> dict[str, Any] | None:
    """The last checkpoint of a run, None if it stopped before there was one."""
    path = run_dir / LAST
    if not path.exists():
        return None
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return checkpoint


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes under another name and renames: a crash leaves the old checkpoint whole, never half of a new one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(target.name + ".tmp")
        with draft.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)


class LastCheckpoint(Checkpoint):
    """last.ckpt at the end of each epoch and every so many optimizer steps within it.

    Not on Ctrl-C or an error, which may come in the middle of a step: what is written is always a point from
    which training goes on bit for bit.
    """

    def __init__(self, path: Path, every_n_steps: int | None) -> None:
        self.path, self.every_n_steps = path, every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        has_stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.every_n_steps is None or not has_stepped or trainer.global_step % self.every_n_steps:
            return
        # from a checkpoint behind its last batch, Lightning would skip the epoch's validation; its own comes soon
        if not trainer.is_last_batch and not trainer.should_stop:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class BestCheckpoint(ModelCheckpoint):
    """best.ckpt, which stays the best so far when the run's directory was moved before a resume."""

    def __init__(self, folder: Path, monitor: str) -> None:
        super().__init__(
            folder,
            filename="best",
            monitor=monitor,
            mode=mode_of(monitor) or "max",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        path = str(Path(str(self.dirpath)) / "best.ckpt")
        here = {"dirpath": self.dirpath, "best_model_path": path, "kth_best_model_path": path}
        scores = list(state_dict["best_k_models"].values())
        super().load_state_dict({**state_dict, **here, "best_k_models": {path: scores[0]}} if scores else state_dict)
