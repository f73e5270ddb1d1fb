"""Our sweeper where Hydra looks for one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import DictConfig, open_dict

from stagetune.config.compose import to_plain
from stagetune.errors import StagetuneError, show
from stagetune.sweep.combinations import check_plans, jobs_of, names_of
from stagetune.sweep.jobs import Job, alone_in, make_ready, result_of, state_of, write_sweep
from stagetune.sweep.progress import Progress


class StagedSweeper(BasicSweeper):
    """Hydra's basic sweeper, but every job is validated before the first starts, and what is done is left alone."""

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.hydra_context is not None
        master, loader = self.config, self.hydra_context.config_loader
        words = [*self._parse_config(), *arguments]
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
        (combinations,) = self.split_arguments(parsed, None)
        folder = Path(master.hydra.sweep.dir)
        jobs = jobs_of(combinations, lambda words: _plain(loader.load_sweep_config(master, list(words))), folder)
        states = [state_of(job.folder, job.config) for job in jobs]
        waiting = [job for job, state in zip(jobs, states, strict=True) if state != "done"]
        check_plans(waiting)
        with alone_in(folder):
            write_sweep(folder, jobs)
            for job in waiting:
                make_ready(job)
            progress = self._say_beginning(jobs, states, folder)
            self._launch(waiting, progress, folder)
        return self._end(jobs, folder)

    def _say_beginning(self, jobs: list[Job], states: list[str], folder: Path) -> Progress:
        done = [job for job, state in zip(jobs, states, strict=True) if state == "done"]
        words = {"done": "done", "go on": "to go on", "repeat": "to repeat", "begin": "to begin"}
        counts = ", ".join(f"{states.count(state)} {said}" for state, said in words.items() if state in states)
        print(f"sweep     {len(jobs)} jobs in {folder}: {counts}", flush=True)
        return Progress(jobs, names_of([job.overrides for job in jobs]), done=done)

    def _launch(self, jobs: list[Job], progress: Progress, folder: Path) -> None:
        assert self.launcher is not None
        # both are said to each job: its own configuration would give another name to the sweep
        words = [
            [*job.overrides, f"hydra.sweep.dir='{folder}'", f"hydra.sweep.subdir='{job.folder.relative_to(folder)}'"]
            for job in jobs
        ]
        if isinstance(self.launcher, BasicLauncher):
            for number, job in enumerate(words):
                show_failures(self.launcher.launch([job], initial_job_idx=number))
                progress.tell()
        elif words:
            with progress.watched():
                try:
                    show_failures(self.launcher.launch(words, initial_job_idx=0))
                except Exception as error:  # such as a process that the system has killed: the others' results count
                    show(StagetuneError(f"the launcher stopped: {type(error).__name__}: {error}"))

    def _end(self, jobs: list[Job], folder: Path) -> list[float | None]:
        results = [result_of(job.folder) for job in jobs]
        failed = [
            job.folder
            for job, result in zip(jobs, results, strict=True)
            if result is None or result.status != "completed"
        ]
        if failed:
            raise StagetuneError(
                f"{len(failed)} of {len(jobs)} jobs did not complete: {', '.join(map(str, failed))}; the same "
                "command again repeats them and leaves the others alone"
            )
        return [result.score if result else None for result in results]


class OptunaSweeper(BasicSweeper):
    """Searches by optuna instead of going through all combinations; see `stagetune.sweep.study`.

    A trial is one job. Every process that runs the same command works at the same study until it has `trials`.
    """

    def __init__(self, trials: int, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.trials = trials

    def sweep(self, arguments: list[str]) -> Any:
        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        from stagetune.sweep.study import Search  # optuna is an extra, and slow to import

        master, loader = self.config, self.hydra_context.config_loader
        parsed = OverridesParser.create(config_loader=loader).parse_overrides([*self._parse_config(), *arguments])
        folder = Path(master.hydra.sweep.dir)
        search = Search(parsed, lambda words: _plain(loader.load_sweep_config(master, list(words))), folder)
        print(f"sweep     a search of {self.trials} trials in {folder}; {search.finished} are done", flush=True)
        while (job := search.next_trial(self.trials)) is not None:
            with job as words:
                show_failures(self.launcher.launch([words], initial_job_idx=0))
        return search.best_value


def show_failures(returned: Sequence[JobReturn]) -> None:
    """Print what jobs ended with before they had a run that could record it; Hydra keeps it to itself."""
    for job in returned:
        error = job._return_value  # its public name prints words of Hydra's, and raises
        if isinstance(error, StagetuneError):
            show(error)
        elif job.status == JobStatus.FAILED:
            show(StagetuneError(f"{' '.join(job.overrides or [])}: {type(error).__name__}: {error}"))


def _plain(config: DictConfig) -> dict[str, object]:
    with open_dict(config):
        del config["hydra"]  # its interpolations are for a running job
    return to_plain(config)
