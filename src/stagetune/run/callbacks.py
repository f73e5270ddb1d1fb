"""The callbacks of a run: what each needs of another is said here, and their order carries no secret."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.utilities.model_helpers import is_overridden

from stagetune.artifacts import RunDir, StageRecord
from stagetune.cache.callback import FeatureCaching
from stagetune.cache.store import Store
from stagetune.config.monitor import monitor_mode, watched
from stagetune.data.datamodule import StagedData
from stagetune.data.groups import group_numbers
from stagetune.errors import ConfigError
from stagetune.run.build import came_frozen
from stagetune.run.checkpoints import BestCheckpoint, LastCheckpoint
from stagetune.run.collapse import CollapseGuard
from stagetune.run.compiled import CompiledStages
from stagetune.run.leftover import LeftoverBatches
from stagetune.run.non_finite import NonFinite
from stagetune.run.probe import Probe
from stagetune.run.record import Run
from stagetune.run.recorder import Recorder
from stagetune.run.repeatable import SeededBatches
from stagetune.run.screen import StageLines
from stagetune.run.stage_reports import StageReports
from stagetune.run.stopping import Stopping
from stagetune.run.tracking import Tracking
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.targets import build
from stagetune.tasks.settings.siamese import Settings as Siamese
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask


def own_callbacks(settings: Mapping[str, Mapping[str, Any]], run_dir: RunDir) -> list[Callback]:
    """The callbacks that `+callbacks.NAME` names.

    Args:
        settings: by name, of each its `_target_` and arguments, which `check_target` has looked at.
        run_dir: a ModelCheckpoint that is not told where to write writes into callbacks/NAME there.

    Returns:
        One for each name, in their order.

    Raises:
        ConfigError: for what is no callback of Lightning's, and for two of one kind that cannot both be restored.
    """
    problems = []
    found: dict[str, Callback] = {}
    kept: dict[str, str] = {}  # by the key of its state in a checkpoint
    for name, given in settings.items():
        callback = build(given)()
        path = f"callbacks.{name}"
        if isinstance(callback, GradientAccumulationScheduler):
            problems.append(f"{path}: batches per step belong to accumulation=; leave it out")
        elif not isinstance(callback, Callback):
            problems.append(
                f"{path}._target_={given['_target_']}: gives {type(callback).__name__}, which is no "
                "lightning.pytorch.Callback; derive it from that"
            )
            continue
        if is_overridden("state_dict", callback, Callback):
            if other := kept.get(callback.state_key):
                problems.append(
                    f"{path} and {other}: keep their state under one name in a checkpoint, {callback.state_key}; "
                    "leave one out, or give the class a state_key that tells them apart"
                )
            kept[callback.state_key] = path
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            # beside ours its files could take their names; it goes on in no other folder than the one it knows
            callback.dirpath = str((run_dir.callbacks / name).resolve())
        found[name] = callback
    if problems:
        raise ConfigError(problems)
    return list(found.values())


class Callbacks:
    """Those of a run, and what they know at its end.

    Args:
        run: whose configuration says which there are.
        task: a siamese one has a report after each stage, and may collapse.
        data: whose loaders the feature cache serves.
        store: the tables of the feature cache.
    """

    def __init__(self, run: Run, task: StagedTask, data: StagedData, store: Store) -> None:
        config, monitor, mode = run.config, run.config.task.monitor, str(monitor_mode(run.config))
        on_collapse = config.task.on_collapse if isinstance(config.task, Siamese) else "go_on"
        self.unfreezing = StagedUnfreezing(
            watched(config),
            came_frozen=came_frozen(config),
            ema=config.ema,
            resume_with_new_schedule=config.resume_with_new_schedule,
        )
        metrics = run.dir.metrics if config.logger.csv and run.writes else None
        self.skips = config.on_nan == "skip_step"
        self.recorder = Recorder(self.unfreezing, metrics, stops_on_nan=not self.skips)
        self.non_finite = NonFinite(
            self.unfreezing, skips=self.skips, say=lambda text: run.screen.line("on_nan", text)
        )
        self.caching = FeatureCaching(self.unfreezing, data, store, config.cache, run.dir.cache)
        self.probe = Probe(
            self.unfreezing,
            data,
            store,
            config.cache,
            say=lambda text: run.screen.line("probe", text),
            begins_head=config.model.head_init == "probe",
        )
        self.reports = StageReports(group_numbers(data.source))
        self.guard = CollapseGuard(
            self.unfreezing,
            monitor,
            mode,
            goes_back=on_collapse == "go_back",
            say=lambda text: run.screen.line("collapse", text),
        )
        self.best = BestCheckpoint(run.dir.best, monitor, mode, self.unfreezing)
        self.all: list[Callback] = [
            Stopping(),
            self.unfreezing,
            self.caching,
            self.probe,  # here its time is not the stage's, and the passes over a prefix are made
            SeededBatches(config.seed),
            LeftoverBatches(),
            self.non_finite,
            self.recorder,
            Tracking(asdict(config)),
            StageLines(run.screen, self.unfreezing, monitor),
            *own_callbacks(config.callbacks, run.dir),  # before the last: its checkpoint has what they keep
            self.best,
            LastCheckpoint(run.dir.last, config.checkpoint, self.best),
        ]
        if config.compile:
            self.all.append(CompiledStages(self.unfreezing))
        if isinstance(task, SiameseTask):
            self.all.append(self.reports)
            if on_collapse != "go_on":
                self.all.append(self.guard)
        if config.sweep.trial is not None:
            from stagetune.run.pruning import StagePruning  # optuna is an extra

            self.all.append(StagePruning(self.unfreezing, monitor, run.dir.sweep, config.sweep.trial))

    def stage_records(self) -> list[StageRecord]:
        """What result.json says of the stages of which an epoch is over."""
        records = self.recorder.stage_records()
        for record in records:
            name = record["name"]
            record["cache"] = self.caching.of_stage(name)
            training: dict[str, Any] = record["cache"].get("train", {"used": False})
            record["cached_depth"] = training["depth"] if training["used"] else 0
            if self.skips:
                record["skipped_steps"] = self.non_finite.skipped.get(name, 0)
            if name in self.guard.collapsed:
                record["collapsed_in_epoch"] = self.guard.collapsed[name]
            if name in self.reports.reports:
                record["verification"] = self.reports.reports[name]
        return records
