"""What several tests need: a tiny configuration, and a folder of images."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.tasks.staged_task import StagedTask

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


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk: that is for a power cut, which no test brings about, and takes a tenth of a run."""
    monkeypatch.setattr("os.fsync", lambda _: None)


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
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at no probe: its regression takes a second of each run whose features are cached."""
    monkeypatch.setattr("stagetune.run.probe.MOST_FITTED", 0)


class Watched:
    """What a run begins with and trains on: its first weights, and its training batches."""

    def __init__(self) -> None:
        self.initial: dict[str, Tensor] = {}
        self.batches: list[Any] = []

    def changed(self, run_dir: Path) -> set[str]:
        """The layers of which anything, weights or statistics, is other in the run's last checkpoint."""
        last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        assert last.keys() == self.initial.keys()
        return {layer_of(name) for name, value in last.items() if not torch.equal(value, self.initial[name])}


def layer_of(name: str) -> str:
    """backbone.layer4.1.bn2.weight -> layer4, head.bias -> head."""
    return name.removeprefix("backbone.").partition(".")[0]


@contextmanager
def watching() -> Iterator[Watched]:
    """Watch the run that goes on inside."""
    watched = Watched()

    def begin(task: StagedTask) -> None:
        watched.initial = {name: value.clone() for name, value in task.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StagedTask, "on_train_start", begin, raising=False)
        patch.setattr(
            StagedTask, "on_train_batch_start", lambda _, batch, i: watched.batches.append(batch), raising=False
        )
        yield watched


@pytest.fixture
def watched() -> Iterator[Watched]:
    """What the test's run begins with and trains on."""
    with watching() as seen:
        yield seen


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
