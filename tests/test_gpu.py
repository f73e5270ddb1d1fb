"""What only a CUDA GPU can show."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stagetune.config.schema import CacheConfig, Config
from stagetune.data.datamodule import Batch
from stagetune.run import run_experiment
from stagetune.tasks.staged_task import StagedTask


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["classifier_staged", "siamese_staged"])
def test_a_run_on_the_gpu(name: str, precision: str, tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = replace(tiny(f"+experiment={name}"), precision=precision, trainer={"accelerator": "cuda"})
    result = run_experiment(config, tmp_path)
    assert (result.status, result.precision) == ("completed", precision)
    assert result.environment["device"]["type"] == "cuda"
    assert all(stage["peak_memory_mb"] > 10 for stage in result.stages)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("device_gb", [4.0, 0.0])
def test_features_come_from_the_memory_of_the_gpu_or_pinned_from_main_memory_with_the_same_numbers(
    device_gb: float, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny("+experiment=classifier_staged", "data.augment=none", stages=2)
    config.trainer = {"accelerator": "cuda"}
    read = run_experiment(replace(config, cache=CacheConfig(device_gb=device_gb)), tmp_path / "read")
    computed = run_experiment(replace(config, cache=CacheConfig(features="off")), tmp_path / "computed")
    assert [stage["cached_depth"] for stage in read.stages] == [5, 4]
    assert read.test == pytest.approx(computed.test, abs=0.02)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("name", ["classifier_staged", "siamese_staged"])
def test_no_step_waits_for_the_gpu(
    name: str, tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = StagedTask.training_step

    def watched(self: StagedTask, batch: Batch, batch_idx: int) -> torch.Tensor:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return honest(self, batch, batch_idx)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(StagedTask, "training_step", watched)
    config = replace(tiny(f"+experiment={name}"), trainer={"accelerator": "cuda"})
    assert run_experiment(config, tmp_path).status == "completed"
