#!/usr/bin/env bash
# lightning 2.6.6 with torch 2.15.0, CPU.
# ModelCheckpoint(every_n_train_steps=3) over epochs of 3 batches writes its checkpoints behind an epoch's last batch, before
# its validation. A run that goes on from one of them never has that validation, never calls on_train_epoch_end of that
# epoch, and begins the next epoch without on_train_epoch_start: callbacks that set something at the start of an epoch
# (GradientAccumulationScheduler does) miss one.
# Seen on 2026-11-27, resumed at step 3: "batch of 1, validation, end 1, start 2, ..."; uninterrupted: "..., validation,
# end 0, start 1, batch of 1, validation, end 1, start 2, ...". The script fails if that changes.
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
        if batch_idx == 0:
            self.events.append(f"batch of {self.current_epoch}")
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.events.append("validation")

    def on_train_epoch_start(self):
        self.events.append(f"start {self.current_epoch}")

    def on_train_epoch_end(self):
        self.events.append(f"end {self.current_epoch}")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(ckpt_path=None, callbacks=()):
    module = Module()
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), enable_checkpointing=bool(callbacks), num_sanity_val_steps=0,
    )
    trainer.fit(module, DataLoader(torch.rand(6, 2), 2), DataLoader(torch.rand(2, 2), 2), ckpt_path=ckpt_path)
    return module.events


folder = pathlib.Path(tempfile.mkdtemp())
keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1, auto_insert_metric_name=False)
whole, resumed = fit(callbacks=[keep]), fit(ckpt_path=folder / "3.ckpt")
print("whole:  ", ", ".join(whole))
print("resumed:", ", ".join(resumed))
later = ["validation", "end 1", "start 2", "batch of 2", "validation", "end 2"]
assert whole == ["start 0", "batch of 0", "validation", "end 0", "start 1", "batch of 1", *later]
assert resumed == ["batch of 1", *later]
PYTHON
"$work/venv/bin/python" "$work/seen.py" 2> /dev/null
