"""The state of one run, so that its result is written from wherever it stops."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from stagetune.artifacts import RunDir, write_text
from stagetune.config.resume import resume_command
from stagetune.config.schema import Config
from stagetune.errors import Interrupted, Pruned, number_of
from stagetune.report.result import RunResult, config_hash, read_result, write_result
from stagetune.run.faults import explained
from stagetune.run.screen import Screen
from stagetune.run.tracking import track_result


class Run:
    """What one process knows of a run: what it was asked, where it lies, and what has come of it so far.

    Args:
        config: what it was asked to do.
        run_dir: where it lies.
        rank: of this process. That of rank 0 writes files and says what happens.
        world_size: how many processes there are.
    """

    def __init__(self, config: Config, run_dir: RunDir, *, rank: int = 0, world_size: int = 1) -> None:
        self.config, self.dir = config, run_dir
        self.rank, self.world_size = rank, world_size
        self.screen = Screen(quiet=rank > 0)
        self.loggers: list[Logger] = []  # the trackers that are told the result
        self.where: Callable[[], str] = lambda: "before training"  # what it is doing, for a message
        self.is_accepted = False  # until then a run that was to go on stays as it was
        self.result = RunResult(
            status="failed",  # until it is not
            experiment=config.name,
            task=config.task.name,
            seed=config.seed,
            config_hash=config_hash(asdict(config)),
            schedule=config.schedule.name,
            precision=config.precision,
            batch_size=config.data.batch_size,
            accumulation=config.accumulation,
            effective_batch_size=config.data.batch_size * config.accumulation * world_size,
            weights={"requested": config.model.weights, "used": ""},
            timing={"cache_seconds": 0.0},
        )

    @property
    def writes(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def accept(self) -> None:
        """From here on the directory is this run's, and says what it does."""
        self.is_accepted = True
        if self.writes:
            self.dir.unlink_folders()
            self.dir.remove_drafts()  # of a process that was killed
            if self.dir.result.exists() and read_result(self.dir).status == "completed":
                os.replace(self.dir.result, self.dir.earlier)  # first: until it has another, the run is not completed
            write_text(self.dir.config, yaml.safe_dump(asdict(self.config), sort_keys=False))

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Write down how what runs within has ended, whichever way it does."""
        start = time.monotonic()
        try:
            yield
            self.result.status = "completed"
        except (KeyboardInterrupt, SystemExit, Interrupted) as stop:  # Lightning turns Ctrl-C into an exit
            number = signal.SIGTERM if isinstance(stop, SIGTERMException) else number_of(stop)
            interrupted = Interrupted(f"interrupted; go on with {resume_command(str(self.dir), self.config)}", number)
            self.end_with(interrupted)
            raise interrupted from stop
        except Exception as error:
            told = explained(error, self.config, self.where(), self.dir)
            self.end_with(told)
            if told is error:
                raise
            raise told from error
        finally:
            self.result.timing["total_seconds"] = round(time.monotonic() - start, 3)
            if self.writes and self.is_accepted:
                self._write()

    @contextmanager
    def tracked(self) -> Iterator[None]:
        """Tell the trackers, once all is written, how what runs within has ended."""
        try:
            yield
        except KeyboardInterrupt as stop:  # which came after the run: as its result or pictures were made
            raise Interrupted(
                f"interrupted; the run in {self.dir} is {self.result.status}", number_of(stop)
            ) from stop
        finally:
            for logger in self.loggers if self.writes and self.is_accepted else ():
                with self.screen.warned(f"{type(logger).__name__} does not know how the run ended"):
                    track_result(logger, self.result, self.dir)

    def _write(self) -> None:
        try:
            try:
                write_result(self.result, self.dir)
            except KeyboardInterrupt:  # what has ended is not lost in the moment in which it is written down
                write_result(self.result, self.dir)
                raise
        except OSError as error:
            if self.result.status == "completed":
                raise explained(error, self.config, "after the test", self.dir) from error
            self.screen.line("warning", f"{self.dir.result} cannot be written: {error.strerror}")

    def end_with(self, error: Exception) -> None:
        """Let the result say what the run ended with."""
        ends: dict[type[Exception], str] = {Interrupted: "interrupted", Pruned: "pruned"}
        self.result.status = ends.get(type(error), "failed")
        if self.result.status == "failed":
            self.result.error = {"type": type(error).__name__, "message": str(error)}
