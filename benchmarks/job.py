"""One staged job, done by one of the peers in a process of its own, which writes its figures as JSON.

ResNet50 under a linear head: the head alone for 8 epochs, with layer4 for 4 more, everything for the last 2. The
same images, batches, optimizer and rates for all; `kept_mib` is what autograd saves in a stage's first step.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import BaseFinetuning
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet50

from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.data.datamodule import Batch, StagedLoader
from stagetune.run import run_experiment
from stagetune.run.recorder import peak_memory_mb, reset_peak_memory
from stagetune.schedule.spec import Schedule, Stage
from stagetune.tasks.staged_task import StagedTask

STAGES = [
    Stage("head", ["head"], epochs=8, lr=1e-3),
    Stage("layer4", ["layer4"], epochs=4, lr=1e-4),
    Stage("all", ["all"], epochs=2, lr=1e-4),
]
STARTS = {0: "head", 8: "layer4", 12: "all"}  # of the stages, by epoch
EPOCHS, WEIGHT_DECAY, CLASSES = 14, 0.05, 10
VARIANTS = {
    "stagetune": "as shipped: bf16 where the hardware has it, channels_last, feature cache",
    "stagetune fp32": "in single precision, to compare with the peers' own setting",
    "Lightning": "BaseFinetuning as its documentation shows it",
    "Lightning, tuned": "with train_bn=False, bf16, channels_last, a fused optimizer, no checkpoints",
    "FTS": "finetuning-scheduler as its documentation shows an explicit schedule",
    "FTS, tuned": "with restore_best=False, bf16, channels_last, a fused optimizer, no checkpoints",
}


def write_images(root: Path, size: int, train: int, held_out: int) -> None:
    """Handwritten digits as PNG files, root/{train,val,test}/<digit>/."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images)).tolist()
    number = 0
    for part, count in (("train", train), ("val", held_out), ("test", held_out)):
        for i in range(number, number + count):
            pixels = digits.images[order[i % len(order)]] * 15.9
            pixels = np.roll(pixels, i // len(order), axis=1)  # more images than there are digits
            folder = root / part / str(digits.target[order[i % len(order)]])
            folder.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels.astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
            image.save(folder / f"{i}.png", compress_level=1)
        number += count


class Kept:
    """Counts the bytes that autograd saves in the first step of each stage."""

    def __init__(self) -> None:
        self.mib: dict[str, float] = {}

    def around(self, stage: str, module: nn.Module, step: Callable[[], Tensor]) -> Tensor:
        if stage in self.mib:
            return step()
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = step()
        self.mib[stage] = sum(size for pointer, size in seen.items() if pointer not in own) / 2**20
        return loss


class Waited:
    """Seconds for which training and validation waited for their batches."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds += time.perf_counter() - start
            if batch is None:
                return
            yield batch


def ours(root: Path, size: int, batch: int, weights: str, precision: str) -> dict[str, Any]:
    config = configure(root, size, batch, weights, precision)
    kept, waited = Kept(), Waited()
    step, read = StagedTask.training_step, StagedLoader.__iter__

    def measured(self: StagedTask, batch: Batch, batch_idx: int) -> Tensor:
        if not self.trainer.fit_loop.epoch_loop.batch_progress.current.ready:  # stages are tried out first
            return step(self, batch, batch_idx)
        stage = max(start for start in STARTS if start <= self.current_epoch)
        return kept.around(STARTS[stage], self, lambda: step(self, batch, batch_idx))

    StagedTask.training_step = measured  # type: ignore[method-assign, assignment]
    StagedLoader.__iter__ = lambda self: waited.around(read(self))  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STAGETUNE_CACHE"] = folder  # nothing is left from an earlier run
        result = run_experiment(config, Path(folder) / "run")
    return {
        "total": result.timing["fit_seconds"],
        "first_pass": result.timing["cache_seconds"],
        "seconds": {stage["name"]: stage["seconds"] for stage in result.stages},
        "peak_mib": {stage["name"]: stage["peak_memory_mb"] for stage in result.stages},
        "kept_mib": kept.mib,
        "waited": waited.seconds,
        "val": result.stages[-1]["val"],
    }


def configure(root: Path, size: int, batch: int, weights: str, precision: str) -> Config:
    config = compose(
        ["data=image_folder", f"data.root={root}", f"data.image_size={size}", f"data.batch_size={batch}",
         "data.augment=none", f"precision={precision}", f"model.weights={weights}"]
    )  # fmt: skip
    config.schedule = Schedule(name="bench", stages=STAGES)
    return config


class Peer(LightningModule):
    """The same model and optimizer for the peers' callbacks: parameters are filtered as they ask for it."""

    def __init__(self, weights: str, *, is_tuned: bool) -> None:
        super().__init__()
        self.backbone = resnet50()
        self.backbone.fc = nn.Identity()
        state = torch.load(weights, map_location="cpu", weights_only=True)["state_dict"]
        found = {
            name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")
        }
        self.backbone.load_state_dict(found)
        self.head = nn.Linear(2048, CLASSES)
        self.is_tuned, self.kept = is_tuned, Kept()
        if is_tuned:
            self.backbone.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        if self.is_tuned:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        stage = max(start for start in STARTS if start <= self.current_epoch)
        return self.kept.around(STARTS[stage], self, lambda: F.cross_entropy(self(batch[0]), batch[1]))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        logits = self(batch[0]).float()
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = filter(lambda parameter: parameter.requires_grad, self.parameters())
        return torch.optim.AdamW(trained, lr=1e-3, weight_decay=WEIGHT_DECAY, fused=self.is_tuned or None)


class FreezeUnfreeze(BaseFinetuning):
    """As the documentation of BaseFinetuning shows it, with two times of unfreezing."""

    def __init__(self, *, train_bn: bool) -> None:
        super().__init__()
        self.train_bn = train_bn

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.get_submodule("backbone"), train_bn=self.train_bn)

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: torch.optim.Optimizer) -> None:
        backbone = pl_module.get_submodule("backbone")
        if epoch == 8:
            self.unfreeze_and_add_param_group(backbone.get_submodule("layer4"), optimizer, lr=1e-4)
        if epoch == 12:
            rest = [layer for name, layer in backbone.named_children() if name != "layer4"]
            self.unfreeze_and_add_param_group(rest, optimizer, lr=1e-4)


class Clock(Callback):
    """Seconds and peak memory of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self._stage = ""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()
        if trainer.current_epoch in STARTS:
            self._stage = STARTS[trainer.current_epoch]
            self.seconds[self._stage] = 0.0
            reset_peak_memory(pl_module.device)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds[self._stage] += time.monotonic() - self._start
        self.peak_mib[self._stage] = peak_memory_mb(pl_module.device)


def lightnings(is_tuned: bool) -> list[Callback]:
    return [FreezeUnfreeze(train_bn=not is_tuned)]


def finetuning_schedulers(is_tuned: bool) -> list[Callback]:
    from finetuning_scheduler import FinetuningScheduler, FTSCheckpoint  # of the extra `bench`

    schedule = {
        0: {"params": [r"head\..*"], "max_transition_epoch": 8},
        1: {"params": [r"backbone\.layer4\..*"], "max_transition_epoch": 12, "lr": 1e-4},
        2: {"params": [r"backbone\.(?!layer4).*"], "max_transition_epoch": 14, "lr": 1e-4},
    }
    keep = FTSCheckpoint(monitor="val_loss", save_top_k=0 if is_tuned else 1)
    return [FinetuningScheduler(schedule, epoch_transitions_only=True, restore_best=not is_tuned), keep]


def peers(
    root: Path, size: int, batch: int, weights: str, callbacks: Callable[[bool], list[Callback]], *, is_tuned: bool
) -> dict[str, Any]:
    seed_everything(0, verbose=False)
    loaders = {part: loader(root / part, size, batch, is_tuned=is_tuned) for part in ("train", "val")}
    clock, module = Clock(), Peer(weights, is_tuned=is_tuned)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=EPOCHS, callbacks=[*callbacks(is_tuned), clock], logger=False, default_root_dir=folder,
            precision="bf16-mixed" if is_tuned else "32-true", enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=callbacks is finetuning_schedulers, num_sanity_val_steps=0,
        )  # fmt: skip
        start = time.monotonic()
        trainer.fit(module, loaders["train"], loaders["val"])
        total = time.monotonic() - start
    val = {name.replace("_", "/"): float(value) for name, value in trainer.callback_metrics.items()}
    return {
        "total": total,
        "first_pass": 0.0,
        "seconds": clock.seconds,
        "peak_mib": clock.peak_mib,
        "kept_mib": module.kept.mib,
        "val": val,
    }


def loader(folder: Path, size: int, batch: int, *, is_tuned: bool) -> DataLoader[Any]:
    """Decoded and normalised beforehand, which costs the peers nothing in an epoch."""
    files = sorted(folder.rglob("*.png"))
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in files])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    target = torch.tensor([int(path.parent.name) for path in files])
    data: TensorDataset = TensorDataset(images, target)
    return DataLoader(data, batch, shuffle=folder.name == "train", pin_memory=torch.cuda.is_available())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    job = (asked.root, asked.size, asked.batch, asked.weights)
    if asked.variant.startswith("stagetune"):
        result = ours(*job, precision="fp32" if asked.variant.endswith("fp32") else "auto")
    else:
        callbacks = lightnings if asked.variant.startswith("Lightning") else finetuning_schedulers
        result = peers(*job, callbacks, is_tuned=asked.variant.endswith("tuned"))
    asked.out.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
