"""Runs in processes of their own that are killed at a chosen moment, for tests of what a crash leaves."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn

from commands import call
from stagetune.config.schema import Config


class Net(nn.Module):
    """A network of one's own: four small layers."""

    def __init__(self, width: int = 8, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain  # not a weight, and not in its repr
        block = lambda inner: nn.Sequential(nn.Conv2d(inner, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())  # noqa: E731
        self.stem, self.layer2, self.layer3, self.layer4 = block(3), block(width), block(width), block(width)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layer4(self.layer3(self.layer2(self.stem(images))))
        return self.gain * maps


class Events:
    """Counts what happens in a run, each hook of its callbacks and each write, and kills the process at one."""

    def __init__(self, kill_at: int | None) -> None:
        self.count, self.kill_at = 0, kill_at

    def happen(self) -> None:
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        from lightning.pytorch.trainer import call

        hooks, save, replace = call._call_callback_hooks, torch.save, os.replace

        def watched_hooks(*args: Any, **kwargs: Any) -> None:
            self.happen()
            hooks(*args, **kwargs)
            self.happen()

        def watched_save(content: Any, file: Any, *args: Any) -> None:
            file.write(b"half a checkpoint")
            self.happen()
            file.seek(0)
            save(content, file, *args)
            self.happen()

        def watched_replace(*args: Any) -> None:
            self.happen()
            replace(*args)
            self.happen()

        call._call_callback_hooks = watched_hooks
        torch.save = watched_save
        os.replace = watched_replace


def _run(config: Config, run_dir: Path, resume: bool, kill_at: int | None) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, which then die with this process
    from stagetune.run import experiment, run_experiment

    experiment.draw_run = lambda *_: None  # half of such a run's time
    events = Events(kill_at)
    events.watch()
    run_experiment(config, run_dir, resume=resume)
    (run_dir / "events").write_text(str(events.count))


def run(config: Config, run_dir: Path, *, resume: bool = False, kill_at: int | None = None) -> int:
    """Run in a process of its own; its exit code, -9 if it was killed."""
    process = call(_run, config, run_dir, resume, kill_at)
    return process.wait(120)  # not for the loader workers, which notice its death only after seconds
