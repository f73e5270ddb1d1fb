"""What several tests need: a tiny configuration, and a folder of images."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stagetune.config.compose import compose
from stagetune.config.schema import Config

# a shell that runs the tests in the background lets them ignore Ctrl-C, which some of them send
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = (
    "model=resnet18",
    "model.weights=random",
    "data.image_size=32",
    "precision=fp32",
    "trainer=cpu",
    "+trainer.limit_train_batches=4",
    *(f"schedule.stages.{stage}.{setting}" for stage in range(3) for setting in ("epochs=1", "lr=0.01")),
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the cache of the person who runs it."""
    monkeypatch.setenv("STAGETUNE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def tiny() -> Callable[..., Config]:
    """A run of seconds: ResNet18 at 32 px, the first of three stages, each one epoch of four batches."""

    def configure(*overrides: str, stages: int = 3) -> Config:
        config = compose([*overrides[:1], *TINY, *overrides[1:]])
        config.schedule.stages = config.schedule.stages[:stages]
        config.schedule.leave_frozen |= stages < 3
        return config

    return configure


@pytest.fixture
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at none: drawing them takes seconds of each siamese run."""
    monkeypatch.setattr("stagetune.run.experiment.draw_run", lambda *_: None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """root/{red,green,blue}/0.png ... 9.png, every image another."""
    rng = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 80, (20, 24, 3), dtype=np.uint8)
            pixels[..., channel] += 150
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"
