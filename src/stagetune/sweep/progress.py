"""A line for each job that ends: how many have, what it came to, the best so far, how long the rest will take."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stagetune.report.result import RunResult
from stagetune.sweep.jobs import Job, result_of
from stagetune.visible import visible_name

EVERY = 0.5  # seconds between two looks at the results of jobs in other processes


class Progress:
    """Looks at the directories of jobs, so that it works wherever they run."""

    def __init__(self, jobs: Sequence[Job], names: Sequence[str], *, done: Sequence[Job] = ()) -> None:
        self.jobs, self._names = list(jobs), list(names)
        self._told = {job.folder for job in done}
        self._fresh = 0  # jobs that ended since the beginning
        self._start = time.monotonic()
        self._once = 0.0  # seconds in which jobs pretrained a backbone, which no later one will
        self._best: tuple[float, str] | None = None
        for job, name in zip(self.jobs, self._names, strict=True):
            if job.folder in self._told and (result := result_of(job.folder)):
                self._note(result, name)

    def tell(self) -> None:
        """Print a line for each job that has ended since the last call."""
        for job, name in zip(self.jobs, self._names, strict=True):
            if job.folder in self._told or not (result := result_of(job.folder)):
                continue
            self._told.add(job.folder)
            self._fresh += 1
            self._once = max(self._once, result.timing.get("weights_seconds", 0.0))
            self._note(result, name)
            words = visible_name(f"{name}: {self._words(result)}")
            print(f"sweep     {len(self._told)} of {len(self.jobs)}  {words}", flush=True)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tell from a thread while jobs run in other processes."""
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(EVERY):
                self.tell()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            self.tell()

    def _note(self, result: RunResult, name: str) -> None:
        if result.best is None or result.score is None or result.status != "completed":
            return
        sign = -1 if result.best["mode"] == "min" else 1
        if self._best is None or sign * result.score > sign * self._best[0]:
            self._best = (result.score, name)

    def _words(self, result: RunResult) -> str:
        seconds = duration(result.timing.get("total_seconds", 0.0))
        if result.status != "completed":
            error = result.error
            why = f": {error['type']}: {error['message'].partition(chr(10))[0]}" if error else ""
            words = f"{result.status} after {seconds}{why}"
        else:
            metric = result.best["metric"] if result.best else "?"
            words = f"{metric} {result.score:.4f} after {seconds}" if result.score is not None else f"after {seconds}"
        if self._best:
            words += f"; best so far {self._best[0]:.4f} ({self._best[1]})"
        if left := len(self.jobs) - len(self._told):
            each = max(0.0, time.monotonic() - self._start - self._once) / self._fresh
            words += f"; about {duration(left * each)} left"
        return words


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds, or hours and minutes."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
