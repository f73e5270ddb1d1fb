"""Rows of all processes."""

import torch
from lightning.pytorch import LightningModule
from torch import Tensor


def gather_rows(module: LightningModule, rows: Tensor) -> Tensor:
    """The rows of all processes in their order, whose counts may differ; alone, the rows themselves.

    Gradients flow back to the process that a row is from. Each process has the same loss of all rows, so what
    comes back is `world_size` times that loss's gradient, and the mean that DDP takes is the gradient itself.
    """
    if module._trainer is None or module.trainer.world_size == 1:
        return rows
    gathered = module.all_gather(torch.tensor(len(rows), device=rows.device))
    assert isinstance(gathered, Tensor)
    counts: list[int] = gathered.tolist()
    filled = torch.cat([rows, rows.new_zeros((max(counts) - len(rows), *rows.shape[1:]))])
    parts = module.all_gather(filled, sync_grads=rows.requires_grad)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
