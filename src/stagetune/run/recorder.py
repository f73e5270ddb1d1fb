"""What a run's result is made of: a row per epoch, a record per stage; and the watch over a loss that is NaN."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from stagetune.artifacts import StageRecord
from stagetune.data.datamodule import Batch
from stagetune.errors import TrainingError
from stagetune.report.metrics import Row, write_metrics
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import NO_DECAY, PlannedStage

FloatArray = npt.NDArray[np.floating[Any]]
RATE_POINTS = 20  # per epoch
LOSS_CHECK_BATCHES = 50  # on a GPU the loss is looked at once in so many batches: each look waits for it


class Recorder(Callback):
    """What it keeps travels in the checkpoint, so that a resumed run reports all of its epochs."""

    def __init__(self, unfreezing: StagedUnfreezing, metrics_file: Path | None, *, stops_on_nan: bool = True) -> None:
        self.unfreezing, self.metrics_file, self.stops_on_nan = unfreezing, metrics_file, stops_on_nan
        self.rows: list[Row] = []
        self._tallies: list[dict[str, Any]] = []  # per stage: steps, samples, seconds, ...
        self._rates: list[dict[str, float]] = []  # learning rates at points of each epoch, for the picture
        self._losses: list[Tensor] = []  # of the current epoch, as are those below
        self._figures: dict[str, list[Tensor]] = {}  # what a task measures of its batches
        self._due: float | None = None  # where the next point of the rates belongs
        self._samples = 0
        self._seconds = 0.0  # before a restart within the epoch
        self._start = self._batches_ended = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "tallies": self._tallies,
            "rates": self._rates,
            "due": self._due,
            "losses": torch.stack(self._losses).cpu() if self._losses else torch.empty(0),
            "figures": {name: torch.stack(values).cpu() for name, values in self._figures.items()},
            "samples": self._samples,
            "seconds": self._seconds + time.monotonic() - self._start,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self._tallies, self._rates = (state_dict[key] for key in ("rows", "tallies", "rates"))
        self._samples, self._seconds, self._due = (state_dict[key] for key in ("samples", "seconds", "due"))
        self._losses = list(state_dict["losses"])
        self._figures = {name: list(values) for name, values in state_dict["figures"].items()}

    def stage_records(self) -> list[StageRecord]:
        """The stages of which an epoch is over, as result.json lists them."""
        records: list[StageRecord] = []
        if not self._tallies:
            return records
        plan = self.unfreezing.plan
        for stage, (start_epoch, _), tally in zip(
            plan.stages, self.unfreezing.stage_starts, self._tallies, strict=False
        ):
            if not tally["epochs"]:
                break
            trained = tally["train_seconds"]
            records.append(
                {
                    "name": stage.name,
                    "start_epoch": start_epoch,
                    "epochs": tally["epochs"],
                    "steps": tally["steps"],
                    "trainable_params": stage.trainable_parameters,
                    "total_params": plan.total_parameters,
                    "trainable_blocks": list(stage.open_blocks),
                    "cached_depth": 0,
                    "seconds": round(tally["seconds"], 3),
                    "samples_per_second": round(tally["samples"] / trained, 1) if trained else 0.0,
                    "peak_memory_mb": round(tally["peak_memory_mb"], 1),
                    "val": tally["val"],
                }
            )
        return records

    def rate_curves(self) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Per group its learning rate over the epochs trained: (epochs, rates)."""
        epochs = np.array([point["epoch"] for point in self._rates])
        names = dict.fromkeys(name for point in self._rates for name in point if name != "epoch")
        # a run that goes on with another schedule may have other groups
        return {name: (epochs, np.array([point.get(name, np.nan) for point in self._rates])) for name in names}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses = [loss.to(pl_module.device) for loss in self._losses]
        self._figures = {name: [v.to(pl_module.device) for v in values] for name, values in self._figures.items()}
        self._start = time.monotonic()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._losses, self._figures, self._samples, self._seconds = [], {}, 0, 0.0
        self._start = time.monotonic()

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        keys = ("epochs", "steps", "samples", "train_seconds", "seconds", "peak_memory_mb")
        self._tallies.append({**dict.fromkeys(keys, 0), "val": {}})
        reset_peak_memory(pl_module.device)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        batches = int(trainer.num_training_batches)
        if batch_idx % max(1, batches // RATE_POINTS) == 0 or batch_idx == batches - 1:
            self._due = trainer.current_epoch + batch_idx / batches

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if self._due is not None:  # now, since a stage may have set them by the gradients of this step
            self._rates.append({"epoch": self._due, **_rates(trainer)})
            self._due = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        # Lightning hands it on as it is accumulated
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        for name, value in getattr(pl_module, "batch_figures", {}).items():
            self._figures.setdefault(name, []).append(value)
        self._samples += len(batch.target) * trainer.world_size
        every = 1 if pl_module.device.type == "cpu" else LOSS_CHECK_BATCHES
        if len(self._losses) % every == 0:
            self._check(trainer, self._losses[-every:])
        self._batches_ended = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check(trainer, self._losses)
        stage, epoch = self.unfreezing.stage, trainer.current_epoch
        losses = torch.stack(self._losses)
        loss = losses[losses.isfinite()].mean()  # the others' steps were left out, or the run has ended
        # those of the last batch: the scheduler has already stepped on
        rates = {f"lr/{name}": rate for name, rate in self._rates[-1].items() if name != "epoch"}
        figures = {f"train/{name}": float(torch.stack(values).nanmean()) for name, values in self._figures.items()}
        for name, values in self._figures.items():
            figures[f"train/batches_without_{name}"] = float(torch.stack(values).isnan().sum())
        pl_module.log_dict({"train/loss": loss, **figures, **rates})
        val = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        measured = {"train/loss": float(loss), **figures, **dict(sorted(val.items()))}
        self.rows.append({"epoch": epoch, "stage": stage.name, "step": trainer.global_step, **measured, **rates})
        if self.metrics_file:
            write_metrics(self.rows, self.metrics_file)
        tally = self._tallies[-1]
        tally["epochs"] += 1
        tally["steps"] = trainer.global_step - self.unfreezing.stage_starts[-1][1]
        tally["samples"] += self._samples
        tally["train_seconds"] += self._seconds + self._batches_ended - self._start
        tally["seconds"] += self._seconds + time.monotonic() - self._start
        tally["peak_memory_mb"] = max(tally["peak_memory_mb"], peak_memory_mb(pl_module.device))
        tally["val"] = val

    def _check(self, trainer: Trainer, losses: list[Tensor]) -> None:
        bad = (~torch.isfinite(torch.stack(losses))).nonzero()
        if len(bad) and self.stops_on_nan:
            batch = len(self._losses) - len(losses) + int(bad[0]) + 1
            stage = self.unfreezing.stage
            latest = self._rates[-1] if self._rates else _rates(trainer)  # the scheduler has stepped on, maybe to 0
            rates = ", ".join(f"{name} {rate:.1e}" for name, rate in latest.items() if rate and name != "epoch")
            raise TrainingError(
                f"the loss is {float(losses[int(bad[0])])} in stage {stage.name}, epoch {trainer.current_epoch}, "
                f"batch {batch} of {int(trainer.num_training_batches)}, at learning rates {rates or 0}; "
                "lower the stage's lr, add +trainer.gradient_clip_val=1.0, or use precision=fp32; "
                "on_nan=skip_step leaves out single steps"
            )


def _rates(trainer: Trainer) -> dict[str, float]:
    """Learning rate by group; a group's norms and biases share its rate."""
    return {
        group["name"]: float(group["lr"])
        for group in trainer.optimizers[0].param_groups
        if not group["name"].endswith(NO_DECAY)
    }


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak resident size starts anew
    except OSError:
        return  # elsewhere the peak is that of the whole process so far


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory since the last reset in MiB: allocated on the GPU, else resident in this process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 2**10
    except (OSError, IndexError):  # not Linux
        import psutil

        memory = psutil.Process().memory_info()
        return float(getattr(memory, "peak_wset", memory.rss)) / 2**20  # Windows knows the peak, others what is used
