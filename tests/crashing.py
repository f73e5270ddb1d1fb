"""Runs in processes of their own that are killed at a chosen moment, for tests of what a crash leaves.

What lies on disk at a moment is what a kill would leave then, so that one run may be copied at many moments; what is
written and not yet handed to the system is in neither.
"""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from commands import call
from stagetune.config.schema import Config


class Events:
    """Counts what happens in a run, each hook of its callbacks and each write, and copies or kills it at some."""

    def __init__(self, run_dir: Path, kill_at: int | None, copy_at: Collection[int]) -> None:
        self.run_dir, self.count, self.kill_at, self.copy_at = run_dir, 0, kill_at, copy_at

    def happen(self) -> None:
        self.count += 1
        if self.count in self.copy_at and self.run_dir.exists():
            shutil.copytree(self.run_dir, copy_of(self.run_dir, self.count))
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


def copy_of(run_dir: Path, event: int) -> Path:
    """Where the copy lies that was made at an event, if the run had a directory then."""
    return run_dir.with_name(f"{run_dir.name}_{event}")


def _run(config: Config, run_dir: Path, resume: bool, kill_at: int | None, copy_at: Collection[int]) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of loader workers, which then die with this process
    from stagetune.run import experiment, run_experiment

    experiment.draw_run = lambda *_: None  # half of such a run's time
    os.fsync = lambda _: None  # a kill takes nothing from the system
    events = Events(run_dir, kill_at, copy_at)
    events.watch()
    run_experiment(config, run_dir, resume=resume)
    (run_dir / "events").write_text(str(events.count))


def run(
    config: Config,
    run_dir: Path,
    *,
    resume: bool = False,
    kill_at: int | None = None,
    copy_at: Collection[int] = (),
) -> int:
    """Run in a process of its own; its exit code, -9 if it was killed."""
    process = call(_run, config, run_dir, resume, kill_at, copy_at)
    return process.wait(120)  # not for the loader workers, which notice its death only after seconds
