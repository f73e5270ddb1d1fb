"""What a step draws at random is a function of seed, epoch and batch, so that a resumed run draws the same."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


@contextmanager
def seeds_unsaid() -> Iterator[None]:
    """Within, Lightning may say a seed in the environment, where a later trainer would find it."""
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


class SeededBatches(Callback):
    """Seeds torch anew for each batch, for dropout and the like; processes draw different numbers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        key = [self.seed, trainer.current_epoch, batch_idx, trainer.global_rank, 5]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
