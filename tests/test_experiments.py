"""Every experiment that ships takes its first steps, in fp32 and in bf16, on whatever machine this is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TINY
from stagetune.config.compose import compose
from stagetune.report.result import read_result
from stagetune.run.experiment import run_experiment

CONF = Path(__file__).parents[1] / "conf" / "experiment"
ALPHABETS = ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/images_background_small1: of each alphabet ten characters, drawn five times."""
    folder, rng = tmp_path_factory.mktemp("omniglot"), np.random.default_rng(0)
    for alphabet in ALPHABETS:
        for character in range(1, 11):
            where = folder / "data" / "images_background_small1" / alphabet / f"character{character:02d}"
            where.mkdir(parents=True)
            for drawer in range(1, 6):
                ink = rng.random((35, 35)) < 0.1
                Image.fromarray(~ink).save(where / f"{alphabet}_{character:02d}_{drawer:02d}.png")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_experiment_takes_its_first_steps(
    name: str, precision: str, drawings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(drawings)
    words = [word for word in TINY if not word.startswith(("schedule.", "precision=", "+trainer."))]
    config = compose([f"+experiment={name}", *words, f"precision={precision}", "data.num_workers=0"])
    stages = config.schedule.stages  # of which the first has most that is cached, and the last most that is open
    config.schedule.stages = [
        replace(stage, epochs=1) for stage in (stages if len(stages) < 3 else [stages[0], stages[-1]])
    ]
    config.trainer["limit_train_batches"] = 2
    config.data.batch_size, config.data.images_per_identity = 12, 6  # the last of rendered letters
    run_experiment(config, tmp_path)
    result = read_result(tmp_path)
    assert (result.status, result.precision) == ("completed", precision)
    assert [stage["steps"] for stage in result.stages] == [2] * len(config.schedule.stages)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in last["state_dict"].values())
