"""What a step draws at random is a function of seed, epoch and batch, so that a resumed run draws the same."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class SeededBatches(Callback):
    """Seeds torch anew for each batch, for dropout and the like; processes draw different numbers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        key = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank, 5]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
