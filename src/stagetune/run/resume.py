"""Going on with a run that stopped: what is known of it, and what may be another than it was."""

from collections.abc import Iterator, Mapping
from typing import Any

from stagetune.artifacts import RunDir
from stagetune.config.resume import resume_command
from stagetune.config.schema import Config
from stagetune.config.validate import completed
from stagetune.errors import ConfigError, ResultError
from stagetune.report.result import read_result

# the schedule is checked by the callback, against the plan that the checkpoint was trained by
MAY_CHANGE = (
    "schedule", "logger", "checkpoint", "sweep", "resume", "on_nan",
    "data.num_workers", "trainer.profiler", "trainer.accelerator",
)  # fmt: skip


def check_unfinished(run_dir: RunDir) -> None:
    """Raise `ResultError` for a run that is completed."""
    if run_dir.result.exists() and read_result(run_dir).status == "completed":
        raise ResultError(f"{run_dir} is completed, there is nothing to go on with; {run_dir.result} has its numbers")


def check_free(run_dir: RunDir) -> None:
    """Raise `ResultError` where a new run would write over what lies there."""
    elsewhere = "choose another directory with hydra.run.dir=... (in a program: run_dir)"
    if run_dir.config.exists() and not run_dir.result.exists():
        again = resume_command(str(run_dir))
        raise ResultError(f"{run_dir} holds a run that did not end; go on with {again}, or {elsewhere}")
    if there := next((path for path in run_dir.written if path.exists()), None):
        name = there.relative_to(run_dir.path).as_posix()
        raise ResultError(f"{run_dir} already holds a {name}; {elsewhere}, or remove it")


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for settings that differ from those of the run so far and would make it another run."""
    problems = [
        f"{key}={new}: the run was begun with {old}; leave it so, or start a new run"
        for key, old, new in _changed(completed(before), now)
        if not key.startswith(MAY_CHANGE)
    ]
    if problems:
        raise ConfigError(problems)


def resume_words(before: Mapping[str, Any], now: Config) -> str:
    """What is said of a run that goes on and was begun `before` by a version that drew other views of images."""
    is_older = "resize" not in before.get("data", {})  # from then on a view follows from data.seed, image and view
    if not is_older or (now.data.augment == "none" and now.data.transform is None):
        return ""
    return "; an earlier version began it: its images are augmented otherwise from here on"


def _changed(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    for key in dict.fromkeys([*before, *now]):
        old, new, where = before.get(key), now.get(key), f"{path}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _changed(old, new, f"{where}.")
        elif old != new:
            yield where, old, new
