"""From overrides to jobs: every combination is validated before the first one starts."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from stagetune.config.schema import Config
from stagetune.config.validate import validate
from stagetune.errors import ConfigError, StagetuneError
from stagetune.report.collect import read_sweep
from stagetune.sweep.jobs import Job, places, state_of

Compose = Callable[[Sequence[str]], Mapping[str, Any]]  # of a job's overrides
WHICH = 3  # jobs named for one problem


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Every job's overrides: all values of each sweep with all of the others, the first key slowest.

    Of a key that is given twice the last counts. Raises `ConfigError` for an interval, which only a search can take.
    """
    words: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            words[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            words[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError([f"{override.input_line}: an interval is searched by hydra/sweeper=optuna; add that"])
    return [list(job) for job in product(*words.values())]


def jobs_of(combinations: Sequence[Sequence[str]], compose: Compose, folder: Path) -> list[Job]:
    """The jobs of a sweep in `folder`. Raises `ConfigError` with the problems of all of them at once."""
    configs: list[Config | None] = []
    problems: dict[str, list[str]] = {}
    names = names_of(combinations)
    for words, name in zip(combinations, names, strict=True):
        config = None
        try:
            config = validate(compose(words), words)
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(name)
        configs.append(config)
    _refuse(problems, len(names))
    jobs = []
    for words, config, place in zip(combinations, configs, places(combinations, read_sweep(folder)), strict=True):
        assert config is not None
        jobs.append(Job(tuple(words), config, folder / place / f"seed-{config.seed}"))
    taken = [str(job.folder) for job in jobs if state_of(job.folder, job.config) == "other"]
    if taken:
        some = ", ".join(taken[:WHICH]) + (f" and {len(taken) - WHICH} more" if len(taken) > WHICH else "")
        raise ConfigError(
            [f"sweep.name: {some} already hold runs of other configurations; choose another name or remove {folder}"]
        )
    return jobs


def names_of(combinations: Sequence[Sequence[str]]) -> list[str]:
    """For the screen: of each combination the overrides in which they differ."""
    found = []
    for words in combinations:
        varied = [word for word in words if not all(word in other for other in combinations)]
        found.append(" ".join(varied) or "the only job")
    return found


def check_plans(jobs: Sequence[Job]) -> None:
    """Resolve each schedule against its model, once for all jobs that share both; raises `ConfigError`."""
    if not jobs:
        return
    from stagetune.run.planning import plan_of  # imports torch: only now, so that errors before it are instant

    known: dict[str, list[str]] = {}
    problems: dict[str, list[str]] = {}
    for job, name in zip(jobs, names_of([job.overrides for job in jobs]), strict=True):
        config = job.config
        parts = (config.model, config.schedule, config.task, config.loss, config.optimizer, config.logger.lightning)
        brought = (config.callbacks, config.metrics, config.data.transform, getattr(config.data, "target", None))
        plain = [part if isinstance(part, dict | None) else asdict(part) for part in (*parts, *brought)]
        key = json.dumps(plain, sort_keys=True)
        if key not in known:
            try:
                plan_of(config)
                known[key] = []
            except ConfigError as error:
                known[key] = error.problems
            except StagetuneError as error:
                known[key] = [str(error)]
        for problem in known[key]:
            problems.setdefault(problem, []).append(name)
    _refuse(problems, len(jobs))


def _refuse(problems: Mapping[str, Sequence[str]], jobs: int) -> None:
    if problems:
        raise ConfigError([_where(problem, names, jobs) for problem, names in problems.items()])


def _where(problem: str, names: Sequence[str], jobs: int) -> str:
    if len(names) == jobs:
        return problem
    more = f" and {len(names) - WHICH} more" if len(names) > WHICH else ""
    return f"{problem} (in {', '.join(names[:WHICH])}{more})"
