"""A search by optuna instead of a grid. Its study lies in the sweep's directory; several commands may share it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.types import IntervalSweep, Override
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from stagetune.config.monitor import monitor_mode
from stagetune.config.validate import validate
from stagetune.errors import ConfigError
from stagetune.run.pruning import open_study
from stagetune.sweep.combinations import check_plans, jobs_of
from stagetune.sweep.jobs import Job, make_ready, result_of, state_of, write_sweep
from stagetune.sweep.progress import duration

STATES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}


class Search:
    """The trials of one study: its database says what has been tried, a trial's directory what became of it."""

    def __init__(
        self, overrides: Sequence[Override], compose: Callable[[Sequence[str]], Mapping[str, Any]], folder: Path
    ) -> None:
        self._fixed, self._searched = space(overrides)
        self._compose, self._folder = compose, folder
        # every choice and both ends of every interval are validated before the first trial
        tried = jobs_of(
            [[*self._fixed, *_words(values)] for values in corners(self._searched)], compose, folder / "none"
        )
        check_plans(tried)
        folder.mkdir(parents=True, exist_ok=True)
        self._monitor = tried[0].config.task.monitor
        self._study = open_study(folder, higher_is_better=monitor_mode(tried[0].config) == "max")

    @property
    def finished(self) -> int:
        return sum(trial.state.is_finished() for trial in self._study.get_trials(deepcopy=False))

    @property
    def best_value(self) -> float | None:
        try:
            return self._study.best_value
        except ValueError:
            return None  # no trial has completed

    def next_trial(self, trials: int) -> AbstractContextManager[list[str]] | None:
        """The overrides of a trial whose process was killed, or of a new one; None if there are enough of them."""
        with self._alone():
            known = self._study.get_trials(deepcopy=False)
            for trial in known:
                # a study may be somebody else's file: what it tries is taken where this command searches it, too
                is_ours = trial.state == TrialState.RUNNING and _is_within(trial.params, self._searched)
                if is_ours and (lock := _hold(self._place(trial.number))):
                    return self._work(trial, lock)
            if len(known) >= trials:
                return None
            asked = self._study.ask(self._searched)
            lock = _hold(self._place(asked.number))
            assert lock is not None
            return self._work(asked, lock)

    def _alone(self) -> FileLock:
        """While it is held, nobody else asks for a trial, or writes down which there are."""
        return FileLock(self._folder / ".lock")

    def _place(self, number: int) -> Path:
        return self._folder / f"trial-{number:04d}"

    @contextmanager
    def _work(self, trial: Trial | FrozenTrial, lock: FileLock) -> Iterator[list[str]]:
        """Tell the study, after the job that the caller runs within, what became of it."""
        place = self._place(trial.number)
        try:
            own = [*self._fixed, *_words(trial.params)]
            config = validate(self._compose(own), own)
            job = Job(tuple(own), config, place / f"seed-{config.seed}")
            with self._alone():
                write_sweep(self._folder, [job])
            if state_of(job.folder, config) != "done":
                make_ready(job)
            start = time.monotonic()
            yield [
                *own, f"sweep.trial={trial.number}", f"hydra.sweep.dir='{self._folder}'",
                f"hydra.sweep.subdir='{job.folder.relative_to(self._folder)}'",
            ]  # fmt: skip
            result = result_of(job.folder)
            state = STATES.get(result.status if result else "", TrialState.FAIL)
            score = result.score if result and state == TrialState.COMPLETE else None
            self._study.tell(trial.number, score, state)
            said = f"{self._monitor} {score:.4f}" if score is not None else state.name.lower()
            best = f"; best so far {self.best_value:.4f}" if self.best_value is not None else ""
            name, seconds = " ".join(_words(trial.params)), duration(time.monotonic() - start)
            print(
                f"sweep     {self.finished} done  trial {trial.number} ({name}): {said} after {seconds}{best}",
                flush=True,
            )
        finally:
            lock.release()


def space(overrides: Sequence[Override]) -> tuple[list[str], dict[str, BaseDistribution]]:
    """The overrides that stay, and what is searched: choices by their values, intervals by their ends.

    `tag(log, interval(1e-4, 1e-1))` is searched by its logarithm. Raises `ConfigError` for a seed to be searched.
    """
    fixed: list[str] = []
    searched: dict[str, BaseDistribution] = {}
    for override in overrides:
        key, value = override.get_key_element(), override.value()
        if not override.is_sweep_override():
            fixed.append(f"{key}={override.get_value_element_as_str()}")
        elif isinstance(value, IntervalSweep):
            low, high, log = value.start, value.end, "log" in value.tags
            assert low is not None
            assert high is not None
            if isinstance(low, int) and isinstance(high, int):
                searched[key] = IntDistribution(low, high, log=log)
            else:
                searched[key] = FloatDistribution(low, high, log=log)
        else:
            searched[key] = CategoricalDistribution(list(override.sweep_string_iterator()))
    if "seed" in searched:
        raise ConfigError(["seed: a search would choose the luckiest; give one, and compare the winner over several"])
    if not searched:
        raise ConfigError(
            [
                "hydra/sweeper=optuna: nothing to search; give choices (schedule=staged,full) or "
                "'schedule.stages.0.lr=tag(log,interval(1e-4,1e-2))'"
            ]
        )
    return fixed, searched


def corners(searched: Mapping[str, BaseDistribution]) -> Iterator[dict[str, Any]]:
    """Few points that between them have every choice and both ends of every interval."""
    ends = {key: _ends(distribution) for key, distribution in searched.items()}
    for i in range(max(map(len, ends.values()))):
        yield {key: values[i % len(values)] for key, values in ends.items()}


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]


def _is_within(values: Mapping[str, Any], searched: Mapping[str, BaseDistribution]) -> bool:
    """Whether a trial has a value of each that is searched, and of nothing else."""
    try:
        return values.keys() == searched.keys() and all(
            one._contains(one.to_internal_repr(values[key])) for key, one in searched.items()
        )
    except (TypeError, ValueError):  # of another kind
        return False


def _words(values: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in values.items()]


def _hold(place: Path) -> FileLock | None:
    """Hold a trial's directory for as long as this process lives; None if another one does."""
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / ".lock", blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock
