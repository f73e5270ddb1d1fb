"""compile=true: each stage once, and the same numbers."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from stagetune.config.schema import Config
from stagetune.errors import ConfigError
from stagetune.models.backbones import own
from stagetune.report.result import read_result
from stagetune.run import run_experiment

pytestmark = pytest.mark.usefixtures("_no_pictures")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile with")
def test_each_stage_is_compiled_once_and_gives_the_numbers_of_the_network_as_it_is_written(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Batches of another length at an epoch's end, validation and the pass of the cache compile nothing more."""
    config = tiny("+experiment=classifier_staged", "optimizer=sgd", "data.augment=none", "data.batch_size=50")
    config.model = own.Settings(
        "own", network={"_target_": "networks.Net"}, blocks=["stem", "layer2", "layer3", "layer4"]
    )
    config.trainer["limit_train_batches"] = 1.0  # to the last, shorter batch
    for stage in config.schedule.stages:
        stage.epochs = 2
    counters.clear()
    run_experiment(replace(config, compile=True), tmp_path / "compiled")
    graphs = counters["stats"]["unique_graphs"]
    # none where stored outputs are read: the head's stage has its features, and from the middle on this network runs
    # as it is written
    assert 1 <= graphs <= 2
    run_experiment(config, tmp_path / "written")
    assert counters["stats"]["unique_graphs"] == graphs
    compiled, written = (read_result(tmp_path / name).test for name in ("compiled", "written"))
    assert compiled == pytest.approx(written, abs=0.02)
    ours, expected = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("compiled", "written")
    )
    for name, value in expected.items():
        # 132 steps carry a rounding that moves one pixel across a ReLU up to some 0.005
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0.02, msg=name)


def test_without_a_compiler_the_way_out_is_said(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"compile=true: needs a C\+\+ compiler on a CPU, such as g\+\+; install"):
        run_experiment(replace(tiny("+experiment=classifier_staged"), compile=True), tmp_path / "run")
