"""The callbacks of a run: what each needs of another is said here, and their order carries no secret."""

from dataclasses import asdict
from typing import Any

from lightning.pytorch import Callback

from stagetune.artifacts import StageRecord
from stagetune.cache.callback import FeatureCaching
from stagetune.cache.store import Store
from stagetune.data.datamodule import StagedData
from stagetune.run.build import came_frozen
from stagetune.run.checkpoints import BestCheckpoint, LastCheckpoint
from stagetune.run.collapse import CollapseGuard
from stagetune.run.compiled import CompiledStages
from stagetune.run.leftover import LeftoverBatches
from stagetune.run.probe import Probe
from stagetune.run.record import Run
from stagetune.run.recorder import Recorder
from stagetune.run.repeatable import SeededBatches
from stagetune.run.screen import StageLines
from stagetune.run.stage_reports import StageReports
from stagetune.run.tracking import Tracking
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask


class Callbacks:
    """Those of a run, and what they know at its end.

    Args:
        run: whose configuration says which there are.
        task: a siamese one has a report after each stage, and may collapse.
        data: whose loaders the feature cache serves.
        store: the tables of the feature cache.
    """

    def __init__(self, run: Run, task: StagedTask, data: StagedData, store: Store) -> None:
        config, monitor = run.config, run.config.task.monitor
        self.unfreezing = StagedUnfreezing(
            config.schedule,
            came_frozen=came_frozen(config),
            ema=config.ema,
            resume_with_new_schedule=config.resume_with_new_schedule,
        )
        metrics = run.dir.metrics if config.logger.csv and run.writes else None
        self.recorder = Recorder(self.unfreezing, metrics)
        self.caching = FeatureCaching(self.unfreezing, data, store, config.cache, run.dir.cache)
        self.probe = Probe(
            self.unfreezing, data, store, config.cache, say=lambda text: run.screen.line("probe", text)
        )
        self.reports = StageReports()
        self.guard = CollapseGuard(
            self.unfreezing,
            monitor,
            goes_back=config.task.on_collapse == "go_back",
            say=lambda text: run.screen.line("collapse", text),
        )
        self.best = BestCheckpoint(run.dir.best, monitor, self.unfreezing)
        self.all: list[Callback] = [
            self.unfreezing,
            self.caching,
            self.probe,  # here its time is not the stage's, and the passes over a prefix are made
            SeededBatches(config.seed),
            LeftoverBatches(),
            self.recorder,
            Tracking(asdict(config)),
            StageLines(run.screen, self.unfreezing, monitor),
            self.best,
            LastCheckpoint(run.dir.last, config.checkpoint, self.best),
        ]
        if config.compile:
            self.all.append(CompiledStages(self.unfreezing))
        if isinstance(task, SiameseTask):
            self.all.append(self.reports)
            if config.task.on_collapse != "go_on":
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
            if name in self.guard.collapsed:
                record["collapsed_in_epoch"] = self.guard.collapsed[name]
            if name in self.reports.reports:
                record["verification"] = self.reports.reports[name]
        return records
