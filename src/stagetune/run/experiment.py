"""`run_experiment`: build, fit, test, and write what a run leaves."""

import signal
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from stagetune.cache.callback import FeatureCaching
from stagetune.cache.store import Store
from stagetune.config.schema import Config
from stagetune.data.datamodule import StagedData
from stagetune.errors import Interrupted, Pruned, ResultError, StagetuneError
from stagetune.models.weights import Weights, load_into
from stagetune.report.result import FILE, RunResult, config_hash, read_result, write_result
from stagetune.run import processes
from stagetune.run.build import (
    build_data,
    build_network,
    build_store,
    build_task,
    build_trainer,
    came_frozen,
    card_of,
    check_exact,
    check_targets,
    check_unseen,
    decode_once,
    part_sizes,
    write_config,
)
from stagetune.run.checkpoints import BEST, LAST, BestCheckpoint, LastCheckpoint, read_last
from stagetune.run.collapse import CollapseGuard
from stagetune.run.compiled import CompiledStages, check_compiler
from stagetune.run.environment import environment
from stagetune.run.leftover import LeftoverBatches
from stagetune.run.pictures import draw_run
from stagetune.run.precision import device_type, resolve_precision, set_products
from stagetune.run.pretrained import find_weights
from stagetune.run.recorder import Recorder
from stagetune.run.repeatable import SeededBatches
from stagetune.run.resume import check_same, check_unfinished
from stagetune.run.screen import Screen, StageLines, quiet_libraries
from stagetune.run.stage_reports import StageReports, report_of
from stagetune.run.tracking import Tracking, track_result
from stagetune.run.words import SPLIT_WORDS, cache_words, data_words, training_words
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.network import describe
from stagetune.schedule.plan import Plan, check_resumable
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.spec import mode_of
from stagetune.schedule.table import count_words, plan_table, plan_text
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask


def run_experiment(config: Config, run_dir: Path, *, resume: bool = False) -> RunResult:
    """Run one experiment in `run_dir`, or go on with the one there; whatever happens, result.json says it.

    Raises `ResultError` if the directory already holds a result, and any `StagetuneError` of its parts.
    """
    if resume:
        check_unfinished(run_dir)
    elif (run_dir / FILE).exists():
        raise ResultError(f"{run_dir} already holds a {FILE}; choose another directory with hydra.run.dir=...")
    quiet_libraries()
    several = processes.wants_several(config.trainer)
    if several and not processes.are_started():
        return _start_processes(config, run_dir, resume=resume)
    rank, world_size = processes.join(config.trainer)
    run_dir = Path(processes.from_rank_zero(str(run_dir), world_size))
    start = time.monotonic()
    run = _Run(config, run_dir, Screen(quiet=rank > 0), rank=rank, world_size=world_size)
    last = read_last(run_dir) if resume else None
    if last is None:
        run.accept()
    try:
        run.everything(last)
        run.result.status = "completed"
    except (KeyboardInterrupt, SystemExit, Interrupted) as stop:  # Lightning turns Ctrl-C into an exit
        run.result.status = "interrupted"
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
        raise Interrupted(f"interrupted; go on with python train.py resume={run_dir}") from stop
    except Pruned:
        run.result.status = "pruned"
        raise
    except Exception as error:
        run.result.error = {"type": type(error).__name__, "message": str(error)}
        raise
    finally:
        run.result.timing["total_seconds"] = round(time.monotonic() - start, 3)
        if rank == 0 and run.is_accepted:
            write_result(run.result, run_dir)
            for logger in run.loggers:
                track_result(logger, run.result, run_dir)
    run.screen.line("results", str(run_dir))
    return run.result


def _start_processes(config: Config, run_dir: Path, *, resume: bool) -> RunResult:
    """The same in several processes on this machine; a result is written even if they all die."""
    before = {name: _written(run_dir / name) for name in (FILE, "config.yaml")}
    run = _Run(config, run_dir, Screen(), rank=0, world_size=1)
    try:
        processes.start(asdict(config), run_dir, resume=resume)
    except StagetuneError as error:
        is_accepted = not resume or _written(run_dir / "config.yaml") != before["config.yaml"]
        if is_accepted and _written(run_dir / FILE) == before[FILE]:
            run.accept()
            run.result.status = "interrupted" if isinstance(error, Interrupted) else "failed"
            run.result.error = {"type": type(error).__name__, "message": str(error)}
            write_result(run.result, run_dir)
        raise
    return read_result(run_dir)


def _written(path: Path) -> int | None:
    """When a file was last written; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


class _Run:
    """The state of one run, so that the result can be written from wherever it stops."""

    def __init__(self, config: Config, run_dir: Path, screen: Screen, *, rank: int, world_size: int) -> None:
        self.config, self.run_dir, self.screen = config, run_dir, screen
        self.rank, self.world_size = rank, world_size
        self.loggers: list[Logger] = []  # the trackers that are told the result
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

    def everything(self, last: Mapping[str, Any] | None) -> None:
        """Build, fit and test; `last` is the checkpoint to go on from."""
        config, result, line = self.config, self.result, self.screen.line
        line("run", f"{config.name}, seed {config.seed}")
        check_targets(config)
        self.device = device_type(str(config.trainer.get("accelerator", "auto")))
        result.precision = resolve_precision(config.precision, self.device)
        if config.compile:
            check_compiler(self.device)
        if last:
            check_same(last["stagetune"]["config"], asdict(config))
        data = build_data(config, rank=self.rank, world_size=self.world_size)
        source, split = data.source, config.data.split
        result.data = {"name": source.name, "split": split, **part_sizes(data.split), "notes": source.notes}
        line("data", data_words(config, data))
        store = build_store(config, lambda text: line("cache", text), writes=self.writes)
        if config.cache.images == "auto":
            decode_once(data, store)
        weights = None if last else self._find_weights()  # a checkpoint has all weights
        set_products(result.precision)
        seed_everything(config.seed, workers=True, verbose=False)  # now: pretraining a backbone draws, too
        backbone = build_network(config.model, config.data.image_size)
        if weights:
            check_unseen(data, weights, config.data.split)
            card = card_of(config, data, load_into(backbone, weights))
        else:
            assert last is not None
            card = {**last["stagetune"], "config": asdict(config)}
        result.weights["used"] = card["weights"]
        task = build_task(config, backbone, len(data.source.classes), card, data.pairs)
        plan = make_plan(config.schedule, describe(task, came_frozen=came_frozen(config)))
        check_exact(plan, task)
        if last:
            state = last["callbacks"][StagedUnfreezing.__name__]
            check_resumable(state, plan, accepts_new=config.resume_with_new_schedule)
        self.accept()
        if self.writes:
            (self.run_dir / "plan.txt").write_text(plan_text(plan) + cache_words(config, data) + "\n")
        line(
            "model",
            f"{config.model.arch}, {count_words(plan.total_parameters)} parameters; weights {result.weights['used']}",
        )
        self._fit_and_test(task, data, plan, store, resume_from=self.run_dir / LAST if last else None)

    def accept(self) -> None:
        """From here on the directory says what this run does."""
        self.is_accepted = True
        if self.writes:
            write_config(self.config, self.run_dir)

    def _find_weights(self) -> Weights:
        """The pretrained weights; of several processes the first makes them, if need be, and the others wait."""
        start = time.monotonic()
        if self.writes:
            weights = find_weights(self.config, self.screen, run_experiment)
        self.result.timing["weights_seconds"] = round(time.monotonic() - start, 3)
        processes.from_rank_zero(None, self.world_size)
        return weights if self.writes else find_weights(self.config, self.screen, run_experiment)

    def _fit_and_test(
        self, task: StagedTask, data: StagedData, plan: Plan, store: Store, *, resume_from: Path | None
    ) -> None:
        config, result = self.config, self.result
        unfreezing = StagedUnfreezing(
            config.schedule,
            came_frozen=came_frozen(config),
            ema=config.ema,
            resume_with_new_schedule=config.resume_with_new_schedule,
        )
        recorder = Recorder(unfreezing, self.run_dir / "metrics.csv" if config.logger.csv and self.writes else None)
        caching = FeatureCaching(unfreezing, data, store, config.cache, self.run_dir / "cache.json")
        reports = StageReports()
        watchers: list[Callback] = [reports] if isinstance(task, SiameseTask) else []
        goes_back = config.task.on_collapse == "go_back"
        guard = CollapseGuard(
            unfreezing, config.task.monitor, goes_back=goes_back, say=lambda text: self.screen.line("collapse", text)
        )
        if watchers and config.task.on_collapse != "go_on":
            watchers.append(guard)
        if config.sweep.trial is not None:
            watchers.append(self._pruning(unfreezing, config.sweep.trial))
        best = BestCheckpoint(self.run_dir / BEST, config.task.monitor, unfreezing)
        trainer = build_trainer(
            config,
            precision=result.precision,
            callbacks=[
                unfreezing,
                caching,
                *([CompiledStages(unfreezing)] if config.compile else []),
                SeededBatches(config.seed),
                LeftoverBatches(),
                recorder,
                Tracking(asdict(config)),
                *watchers,
                StageLines(self.screen, unfreezing, config.task.monitor),
                best,
                LastCheckpoint(self.run_dir / LAST, config.checkpoint, best),
            ],
            run_dir=self.run_dir,
        )
        self.loggers = trainer.loggers
        result.environment = environment(trainer.strategy.root_device)
        if data.shape:
            result.batch_size = data.shape[0] * data.shape[1]
            windows = 1 if config.exact_accumulation else config.accumulation
            result.effective_batch_size = result.batch_size * windows * self.world_size
        training = training_words(config, data, precision=result.precision, device=self.device)
        self.screen.line("training", training)
        self.screen.line("cache", cache_words(config, data))
        self.screen.line("schedule", plan_table(plan))
        if resume_from:
            self.screen.line("resume", f"from {resume_from}")
        start = time.monotonic()
        try:
            trainer.fit(task, datamodule=data, ckpt_path=resume_from, weights_only=True)
        except Exception as error:
            if trainer.received_sigterm:  # which ended the loader's processes, too, and they were missed first
                raise SIGTERMException from error
            raise
        finally:
            result.timing["fit_seconds"] = round(time.monotonic() - start, 3)
            result.timing["cache_seconds"] = round(caching.seconds, 3)
            result.stages = recorder.stage_records()
            for stage in result.stages:
                stage["cache"] = caching.of_stage(stage["name"])
                training = stage["cache"].get("train", {"used": False})
                stage["cached_depth"] = training["depth"] if training["used"] else 0
                if stage["name"] in guard.collapsed:
                    stage["collapsed_in_epoch"] = guard.collapsed[stage["name"]]
                if stage["name"] in reports.reports:
                    stage["verification"] = reports.reports[stage["name"]]
            result.peak_memory_mb = max((stage["peak_memory_mb"] for stage in result.stages), default=0.0)
            if best.path.exists():
                result.best = self._best(best.path, recorder)
        assert result.best is not None
        row = result.best
        self.screen.line("best", f"{row['metric']} {row['value']:.4f} in epoch {row['epoch']}, stage {row['stage']}")
        self._test(trainer, task, data)
        if self.writes:
            draw_run(task, data, recorder, reports.reports, config.task.monitor, self.run_dir / "figures")

    def _pruning(self, unfreezing: StagedUnfreezing, trial: int) -> Callback:
        from stagetune.run.pruning import StagePruning  # optuna is an extra

        return StagePruning(unfreezing, self.config.task.monitor, self.run_dir.parents[1], trial)

    def _best(self, path: Path, recorder: Recorder) -> dict[str, Any] | None:
        """The epoch of best.ckpt, read from the checkpoint itself; None if a restart has yet to reach it."""
        epoch = int(torch.load(path, map_location="cpu", weights_only=True)["epoch"])
        row = next((row for row in recorder.rows if row["epoch"] == epoch), None)
        if row is None:
            return None
        monitor = self.config.task.monitor
        return {
            "epoch": epoch,
            "stage": row["stage"],
            "metric": monitor,
            "mode": mode_of(monitor),
            "value": row[monitor],
            "checkpoint": str(BEST),
        }

    def _test(self, trainer: Trainer, task: StagedTask, data: StagedData) -> None:
        assert self.result.best is not None
        best = torch.load(self.run_dir / self.result.best["checkpoint"], map_location="cpu", weights_only=True)
        task.load_state_dict(best["state_dict"])
        (measured,) = trainer.test(task, datamodule=data, verbose=False)
        self.result.test = {name: float(value) for name, value in measured.items()}
        if isinstance(task, SiameseTask) and task.encoded is not None:
            calibration = self.result.calibration = best["stagetune"]["calibration"]
            self.result.verification = report_of(task, calibration["threshold"])
        numbers = "  ".join(f"{name.removeprefix('test/')} {value:.4f}" for name, value in self.result.test.items())
        self.screen.line("test", f"{numbers}  ({SPLIT_WORDS[self.config.data.split]})")
