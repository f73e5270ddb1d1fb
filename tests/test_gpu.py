"""What only a CUDA GPU can show."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stagetune.config.schema import Config
from stagetune.run import run_experiment


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
