#!/usr/bin/env bash
# lightning 2.6.6 with torch 2.15.0, CPU.
# Trainer(max_epochs=4, max_steps=99) over epochs of three batches, without validation: a limit in steps that is never
# reached changes what resuming does. A run that goes on from the checkpoint of the end of epoch 1 first trains a fourth
# batch of that epoch and ends it once more, then trains epoch 2 and stops: 10 steps in all, epoch 3 never comes. Without
# max_steps the same checkpoint gives epochs 2 and 3 and 12 steps, as one would expect.
# Seen on 2026-11-27: with max_steps "batch 3 of 1, end 1, batch 0 of 2, ... end 2", without "batch 0 of 2, ... end 3".
# The script fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lightning==2.6.6 torch==2.15.0
cat > "$work/seen.py" <<'PYTHON'
import logging
import pathlib
import tempfile
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

warnings.filterwarnings("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.events = torch.nn.Linear(2, 1), []

    def training_step(self, batch, batch_idx):
        self.events.append(f"batch {batch_idx} of {self.current_epoch}")
        return self.layer(batch).sum()

    def on_train_epoch_end(self):
        self.events.append(f"end {self.current_epoch}")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(ckpt_path=None, callbacks=(), **limits):
    module = Module()
    trainer = Trainer(
        max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), enable_checkpointing=bool(callbacks), **limits,
    )
    trainer.fit(module, DataLoader(torch.rand(6, 2), 2), ckpt_path=ckpt_path)
    return module.events, trainer.global_step


seen = {}
for name, limits in (("with max_steps", {"max_steps": 99}), ("without", {})):
    folder = pathlib.Path(tempfile.mkdtemp())
    fit(callbacks=[ModelCheckpoint(folder, "{epoch}", save_top_k=-1, auto_insert_metric_name=False)], **limits)
    seen[name] = fit(ckpt_path=folder / "1.ckpt", **limits)
    print(name, *seen[name])
epoch = {e: [*(f"batch {i} of {e}" for i in range(3)), f"end {e}"] for e in (2, 3)}
assert seen["with max_steps"] == (["batch 3 of 1", "end 1", *epoch[2]], 10)
assert seen["without"] == ([*epoch[2], *epoch[3]], 12)
PYTHON
"$work/venv/bin/python" "$work/seen.py" 2> /dev/null
