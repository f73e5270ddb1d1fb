"""compile=true: what trains is compiled, once for each stage."""

import os
import shutil
from typing import Any

import torch
import torch._dynamo
from lightning.pytorch import Callback, LightningModule, Trainer

from stagetune.data.datamodule import Batch
from stagetune.errors import ConfigError
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage


def check_compiler(device: str) -> None:
    """Raise `ConfigError` where torch would find no C++ compiler for a CPU."""
    if device == "cpu" and not any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++")):
        raise ConfigError(["compile=true: needs a C++ compiler on a CPU, such as g++; install one, or leave it out"])


class CompiledStages(Callback):
    """Compiles the backbone's forward and backward anew when a stage begins; batches may differ in length.

    Validation and test run as they are written, so that what is measured is what inference will run.
    """

    def __init__(self, unfreezing: StagedUnfreezing) -> None:
        self.unfreezing = unfreezing

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.unfreezing.is_within_stage:  # a run that goes on
            self._compile(pl_module)

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        self._compile(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        torch._dynamo.maybe_mark_dynamic(batch.inputs, 0)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("default")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        torch.compiler.set_stance("default")
        pl_module.get_submodule("backbone")._compiled_call_impl = None

    def _compile(self, pl_module: LightningModule) -> None:
        torch._dynamo.reset()  # torch gives up on a function that was compiled eight times
        backbone: Any = pl_module.get_submodule("backbone")
        backbone.compile()
