"""Going on with a run that stopped: what is known of it, and what may be another than it was."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from stagetune.artifacts import CheckpointMetadata, RunDir
from stagetune.config.resume import resume_command
from stagetune.config.schema import Config
from stagetune.config.validate import completed
from stagetune.data.contents import changes
from stagetune.data.datamodule import StagedData
from stagetune.data.names import PARTS
from stagetune.errors import ConfigError, DataError, ResultError, WeightsError
from stagetune.models.weights import Weights
from stagetune.report.result import read_result
from stagetune.run.checkpoints import read_last
from stagetune.run.data import kept_contents, metadata_of
from stagetune.schedule.resumable import EVEN
from stagetune.schedule.spec import Stage

# what data are is checked by their contents, wherever they lie, also those of a class of one's own;
# the schedule is checked by the callback, against the plan that the checkpoint was trained by
MAY_CHANGE = (
    "schedule", "logger", "checkpoint", "sweep", "resume", "trust", "on_nan",
    "data.num_workers", "data.download", "data.root", "data.csv", "data.pairs", "data.target.",
    "trainer.profiler", "trainer.accelerator",
)  # fmt: skip


def check_unfinished(run_dir: RunDir, config: Config) -> None:
    """Raise `ResultError` for a run that is completed, unless it is now asked to train by another schedule.

    And where its checkpoints are a link to elsewhere.
    """
    if run_dir.checkpoints.is_symlink():
        where = f"{run_dir.checkpoints} is a link, and nothing is written through one"
        raise ResultError(f"{where}; put the folder that it leads to in its place")
    if not run_dir.result.exists() or read_result(run_dir).status != "completed":
        return
    last = read_last(run_dir)
    if last is None:
        raise ResultError(
            f"{run_dir} is completed and has no {run_dir.last.name} to go on from; start a new run, "
            f"model.weights={run_dir} begins with its best weights"
        )
    # not config.yaml, which says what was asked of a process that may have been killed before it did so
    trained_by = completed(CheckpointMetadata.of(last).config)["schedule"]
    if trained_by == asdict(config.schedule):
        raise ResultError(
            f"{run_dir} is completed, there is nothing to go on with; {run_dir.result} has its numbers, and "
            f"{resume_command(str(run_dir), config)} {_more(config.schedule.stages)} goes on for as long again"
        )


def _more(stages: Sequence[Stage]) -> str:
    """The words that ask for a last stage of twice the length."""
    last, key = stages[-1], f"schedule.stages.{len(stages) - 1}"
    if last.until is not None:
        longer = f"{key}.until.max_epochs={2 * last.until.max_epochs}"
    else:
        longer = f"{key}.steps={2 * last.steps}" if last.steps else f"{key}.epochs={2 * (last.epochs or 1)}"
    is_free = last.lr_scheduler in EVEN and not last.steps
    return longer if is_free else f"{longer} resume_with_new_schedule=true"


def check_free(run_dir: RunDir) -> None:
    """Raise `ResultError` where a new run would write over what lies there."""
    elsewhere = "choose another directory with hydra.run.dir=... (in a program: run_dir)"
    if run_dir.config.exists() and not _has_ended(run_dir):
        again = resume_command(str(run_dir))
        raise ResultError(f"{run_dir} holds a run that did not end; go on with {again}, or {elsewhere}")
    if there := next((path for path in run_dir.written if path.exists()), None):
        name = there.relative_to(run_dir.path).as_posix()
        raise ResultError(f"{run_dir} already holds a {name}; {elsewhere}, or remove it")


def _has_ended(run_dir: RunDir) -> bool:
    """Whether a run there needs no going on with: it is completed, or its result is none that can be read."""
    try:
        return run_dir.result.exists() and read_result(run_dir).status == "completed"
    except ResultError:
        return True


def check_same(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for settings that differ from those of the run so far and would make it another run."""
    problems = [
        f"{key}={new}: the run was begun with {old}; leave it so, or start a new run"
        for key, old, new in _changed(completed(before), now)
        if not key.startswith(MAY_CHANGE) or key.endswith("._target_")
    ]
    if problems:
        raise ConfigError(problems)


def check_data(before: CheckpointMetadata, config: Config, data: StagedData, run_dir: RunDir) -> str:
    """Whether the images of a run that goes on are those that it was begun with.

    Args:
        before: what the checkpoint says of itself.
        config: of the run as it goes on.
        data: as they are now.
        run_dir: that of the run, for the message.

    Returns:
        What is said of it in the line on the resume; usually nothing.

    Raises:
        DataError: where they are not, with what has changed.
        WeightsError: where what the checkpoint says of them cannot be understood.
    """
    now = kept_contents(config, data)
    if before.data.get("keys") != now["keys"]:
        return "; an earlier version began it, so that its images cannot be compared with those of before"
    try:
        changed = changes(before.data, now, lambda part, i: data.source.describe(int(data.split.parts()[part][i])))
        same_order = all(before.data[part] == now[part] for part in PARTS)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{run_dir.last}: what it says of the images of its run is damaged; start a new run"
        ) from error
    if changed:
        raise DataError(
            f"{run_dir}: its data are not what it was begun with: {'; '.join(changed)}; put them back as they were, "
            "or start a new run"
        )
    return "" if same_order else "; its images are listed in another order than before, and seen in another"


def metadata_after(before: CheckpointMetadata, config: Config, data: StagedData) -> CheckpointMetadata:
    """What the checkpoints of a run say of themselves once it goes on: as if from weights with its past."""
    past = Weights(before.weights, None, before.trained_on, images=frozenset(before.images), pruning=before.pruning)
    return replace(metadata_of(config, data, past), calibration=before.calibration)


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
