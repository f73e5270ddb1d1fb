"""Our sweepers, where Hydra looks for one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from stagetune.config.compose import check_own, is_one_at_a_time, to_plain
from stagetune.errors import StagetuneError, show
from stagetune.seams import error_of
from stagetune.sweep.combinations import check_plans, combinations, jobs_of, names_of
from stagetune.sweep.jobs import Job, alone_in, make_ready, result_of, state_of, write_sweep
from stagetune.sweep.progress import Progress


class _Sweeper(Sweeper):
    """What both sweepers have: `params` that are swept beside those of the command line, and a launcher of jobs."""

    def __init__(self, params: Mapping[str, str] | None = None) -> None:
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.master, self.loader = config, hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    @property
    def folder(self) -> Path:
        return Path(self.master.hydra.sweep.dir)

    def parsed(self, arguments: list[str]) -> list[Override]:
        words = [*(f"{key}={values}" for key, values in self.params.items()), *arguments]
        return OverridesParser.create(config_loader=self.loader).parse_overrides(words)

    def compose(self, words: Sequence[str]) -> dict[str, object]:
        """The plain configuration of a job."""
        config = self.loader.load_sweep_config(self.master, list(words))
        check_own(config.hydra)
        with open_dict(config):
            del config["hydra"]  # its interpolations are for a running job
        return to_plain(config)


class StagedSweeper(_Sweeper):
    """All combinations; every job is validated before the first starts, and what is done is left alone."""

    def sweep(self, arguments: list[str]) -> Any:
        folder = self.folder
        jobs = jobs_of(combinations(self.parsed(arguments)), self.compose, folder)
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
        words = {"done": "done"} | {state: f"to {state}" for state in ("export", "go on", "repeat", "begin")}
        counts = ", ".join(f"{states.count(state)} {said}" for state, said in words.items() if state in states)
        print(f"sweep     {len(jobs)} jobs in {folder}: {counts}", flush=True)
        return Progress(jobs, names_of([job.overrides for job in jobs]), done=done)

    def _launch(self, jobs: list[Job], progress: Progress, folder: Path) -> None:
        # both are said to each job: its own configuration would give another name to the sweep
        words = [
            [*job.overrides, f"hydra.sweep.dir='{folder}'", f"hydra.sweep.subdir='{job.folder.relative_to(folder)}'"]
            for job in jobs
        ]
        if is_one_at_a_time(self.master.hydra):
            for number, job in enumerate(words):
                show_failures(self._launcher.launch([job], initial_job_idx=number))
                progress.tell()
        elif words:
            with progress.watched():
                try:
                    show_failures(self._launcher.launch(words, initial_job_idx=0))
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


class OptunaSweeper(_Sweeper):
    """Searches by optuna instead of going through all combinations; see `stagetune.sweep.study`.

    A trial is one job. Every process that runs the same command works at the same study until it has `trials`.
    """

    def __init__(self, trials: int, params: Mapping[str, str] | None = None) -> None:
        super().__init__(params)
        self.trials = trials

    def sweep(self, arguments: list[str]) -> Any:
        from stagetune.sweep.study import Search  # optuna is an extra, and slow to import

        search = Search(self.parsed(arguments), self.compose, self.folder)
        print(f"sweep     a search of {self.trials} trials in {self.folder}; {search.finished} are done", flush=True)
        while (job := search.next_trial(self.trials)) is not None:
            with job as words:
                show_failures(self._launcher.launch([words], initial_job_idx=0))
        return search.best_value


def show_failures(returned: Sequence[JobReturn]) -> None:
    """Print what jobs ended with before they had a run that could record it; Hydra keeps it to itself."""
    for job in returned:
        error = error_of(job)
        if isinstance(error, StagetuneError):
            show(error)
        elif job.status == JobStatus.FAILED:
            show(StagetuneError(f"{' '.join(job.overrides or [])}: {type(error).__name__}: {error}"))
