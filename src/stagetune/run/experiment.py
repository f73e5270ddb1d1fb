"""One experiment on one page: build, fit, test, and write what it leaves."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.seed import isolate_rng

from stagetune.artifacts import CheckpointMetadata, RunDir, new_run_dir, write_text
from stagetune.cache.store import Store
from stagetune.config.compose import compose
from stagetune.config.monitor import monitor_mode, watched
from stagetune.config.resume import check_run
from stagetune.config.schema import Config
from stagetune.config.validate import validate
from stagetune.data.contents import data_key
from stagetune.data.datamodule import StagedData
from stagetune.errors import ConfigError, TrainingError
from stagetune.interrupts import Stopped, heard, stopped_by
from stagetune.locks import held
from stagetune.models.prune import torch_pruning
from stagetune.models.tensor_files import read_tensors
from stagetune.models.weights import Weights
from stagetune.report.result import RunResult
from stagetune.run import processes
from stagetune.run.beginning import figures_of, first_task
from stagetune.run.build import build_trainer, came_frozen, check_exact, check_targets
from stagetune.run.callbacks import Callbacks
from stagetune.run.checkpoints import read_last
from stagetune.run.compiled import check_compiler
from stagetune.run.compress import blocks_text, compress, pruning_words, quality_words
from stagetune.run.data import (
    build_data,
    build_store,
    decode_once,
    part_sizes,
    reading_of,
)
from stagetune.run.environment import environment
from stagetune.run.pictures import Drawn, draw_run
from stagetune.run.precision import device_type, products, resolve_precision
from stagetune.run.predictions import Predictions, predictions_of, write_predictions
from stagetune.run.pretrained import find_weights
from stagetune.run.record import Run
from stagetune.run.recorder import Recorder
from stagetune.run.repeatable import seeds_unsaid
from stagetune.run.resume import check_data, check_free, check_same, check_unfinished, resume_words
from stagetune.run.screen import quiet_libraries
from stagetune.run.verdict import judge
from stagetune.run.words import (
    SPLIT_WORDS,
    cache_words,
    data_words,
    model_words,
    next_words,
    reading_words,
    training_words,
)
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.network import describe
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.resumable import check_resumable, new_plan_words
from stagetune.schedule.table import count_words, plan_table, plan_text
from stagetune.tasks.staged_task import StagedTask


def run_experiment(
    overrides_or_config: Sequence[str] | Config,
    run_dir: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
) -> RunResult:
    """Run one experiment, or go on with one that stopped; however it ends, result.json in its directory says so.

    Args:
        overrides_or_config: the words that `python train.py` would be given, `resume=DIR` among them, or what
            `compose` makes of them, changed or not.
        run_dir: where to; by default outputs/<name>/<date_time>, or where the run that goes on lies.
        resume: go on with the run in `run_dir`.

    Returns:
        All that result.json says, such as status, stages, best, test and timing in seconds.

    Raises:
        ConfigError: for words or settings that cannot be run, with all problems.
        ResultError: where `run_dir` has a result already.
        StagetuneError: whatever else a person can mend, such as images that cannot be read.

    >>> small = ["model=resnet18", "model.weights=random", "data.image_size=16"]
    >>> short = ["schedule=head_only", "schedule.stages.0.epochs=2"]
    >>> words = ["+experiment=classifier_staged", *small, *short]
    >>> result = run_experiment(words, "outputs/mine")  # doctest: +ELLIPSIS
    run       classifier_staged, seed 0
    ...
    results   outputs/mine
    next      ...stagetune predict outputs/mine IMAGE_OR_FOLDER
    >>> result.status, result.stages[0]["trainable_blocks"]
    ('completed', ['head'])
    """
    given = overrides_or_config
    config = validate(asdict(given)) if isinstance(given, Config) else compose(given)
    if config.resume:
        run_dir, resume = config.resume, True
    config = replace(config, resume=None, trust=False)  # both were for this command, and no file says them
    directory = RunDir(run_dir or new_run_dir(config.name))
    if resume:
        check_run(directory.path)
    with heard(), quiet_libraries(), isolate_rng(include_cuda=False), seeds_unsaid():
        processes.check_asked(config.trainer)
        if processes.wants_several(config.trainer) and not processes.are_started():
            with _held(directory, config, resume=resume):
                return processes.run_in_several(Run(config, directory), resume=resume)
        rank, world_size = processes.join(config.trainer)
        directory = RunDir(processes.from_rank_zero(str(directory), world_size))
        with _held(directory, config, resume=resume) if rank == 0 and not processes.is_held() else nullcontext():
            return _run(Run(config, directory, rank=rank, world_size=world_size), resume=resume)


@contextmanager
def _held(directory: RunDir, config: Config, *, resume: bool) -> Iterator[None]:
    """Let no other run write there; raises `ResultError` where one does, or has."""
    with held(directory.path, "run", "wait for it, or choose another directory with hydra.run.dir=..."):
        check_unfinished(directory, config) if resume else check_free(directory)
        yield


def _run(run: Run, *, resume: bool) -> RunResult:
    """The run in this process: first its result is written, then what is drawn of it and told elsewhere."""
    last = read_last(run.dir) if resume else None
    with run.tracked():
        with run.recorded():
            if last is None:
                run.accept()
            drawn = _build_fit_test(run, last)
        if run.writes:
            with run.screen.warned("pictures"):
                draw_run(*drawn, run.dir.figures, run.screen.warned)
    run.screen.line("results", str(run.dir))
    if not run.dir.is_job:
        run.screen.line("next", next_words(run.config, str(run.dir)))
    return run.result


def _build_fit_test(run: Run, last: Mapping[str, Any] | None) -> Drawn:
    """All of a run but its pictures; `last` is the checkpoint that it goes on from."""
    config, result, line = run.config, run.result, run.screen.line
    line("run", f"{config.name}, seed {config.seed}")
    check_targets(config)
    device = device_type(str(config.trainer.get("accelerator", "auto")))
    result.precision = resolve_precision(config.precision, device)
    if config.compile:
        check_compiler(device)
    if config.model.prune.ratio is not None and last is None:
        torch_pruning()  # which is missing now rather than when all is read
    before = CheckpointMetadata.of(last) if last else None
    if before:
        check_same(before.config, asdict(config))

    store = build_store(config, lambda text: line("cache", text), writes=run.writes)
    data = _data(run, store, before)
    goes_on = check_data(before, config, data, run.dir) + resume_words(before.config, config) if before else ""
    weights = None if last else _weights(run)  # a checkpoint has all of them

    with products(result.precision):
        seed_everything(config.seed, workers=True, verbose=False)  # now: pretraining a backbone draws, too
        task = first_task(config, data, weights, last)
        result.weights["used"] = task.metadata.weights
        if last is None:
            compress(config, task, data)
        if config.model.prune.ratio is not None:
            result.pruning = figures_of(task)
        plan = make_plan(watched(config), describe(task, came_frozen=came_frozen(config)))
        check_exact(plan, task)
        if last:
            state = last["callbacks"][StagedUnfreezing.__name__]
            check_resumable(state, plan, accepts_new=config.resume_with_new_schedule)
            goes_on = new_plan_words(state, plan) + goes_on
        run.accept()
        if run.writes:
            write_text(run.dir.plan, plan_text(plan) + cache_words(config, data) + "\n" + blocks_text(result.pruning))
        parameters = count_words(plan.total_parameters)
        line("model", model_words(config, task, parameters))
        if result.pruning:
            line("pruned", pruning_words(result.pruning))

        callbacks = Callbacks(run, task, data, store)
        trainer = build_trainer(config, precision=result.precision, callbacks=callbacks.all, run_dir=run.dir)
        run.loggers = trainer.loggers
        result.environment = environment(trainer.strategy.root_device)
        if data.shape:
            result.batch_size = data.shape[0] * data.shape[1]
            windows = 1 if config.exact_accumulation else config.accumulation
            result.effective_batch_size = result.batch_size * windows * run.world_size
        line("training", training_words(config, data, precision=result.precision, device=device))
        line("cache", cache_words(config, data))
        line("schedule", plan_table(plan))
        if last:
            line("resume", f"from {run.dir.last}{goes_on}")

        _fit(run, trainer, task, data, callbacks, resumes=last is not None)
        predictions = _test(run, trainer, task, data)
    return task, data, callbacks.recorder, callbacks.reports.reports, config.task.monitor, predictions


def _data(run: Run, store: Store, trained: CheckpointMetadata | None) -> StagedData:
    """The run's data, described; of several processes whichever comes first decodes them, and the others wait."""
    config, result, line = run.config, run.result, run.screen.line
    store = store if run.writes else build_store(config, lambda text: line("cache", text), writes=True)
    start = time.monotonic()
    with reading_of(config, run.screen, decodes_once=config.cache.images == "auto") as reading:
        data = build_data(config, reading=reading, rank=run.rank, world_size=run.world_size, trained=trained)
        result.data = {"name": data.source.name, "split": config.data.split, **part_sizes(data.split)}
        result.data["notes"] = data.source.notes
        result.data["contents"] = data_key(data.source)
        line("data", data_words(config, data))
        if config.cache.images == "auto":
            decode_once(data, store, reading)
    result.timing["data_seconds"] = round(time.monotonic() - start, 3)
    result.timing["reading_seconds"] = round(reading.seconds, 3)
    if words := reading_words(reading):
        line("read", words)
    return data


def _weights(run: Run) -> Weights:
    """The pretrained weights; of several processes that of rank 0 makes them, if need be, and the others wait."""
    start = time.monotonic()
    weights = find_weights(run.config, run.screen, run_experiment) if run.writes else None
    run.result.timing["weights_seconds"] = round(time.monotonic() - start, 3)
    processes.from_rank_zero(None, run.world_size)
    return weights or find_weights(run.config, run.screen, run_experiment)


def _fit(
    run: Run, trainer: Trainer, task: StagedTask, data: StagedData, callbacks: Callbacks, *, resumes: bool
) -> None:
    """Train by the schedule; however that ends, the result has what was trained so far."""
    result, start = run.result, time.monotonic()
    unfreezing = callbacks.unfreezing
    run.where = lambda: f"in stage {unfreezing.stage.name}" if unfreezing.stage_starts else "before the first stage"
    try:
        trainer.fit(task, datamodule=data, ckpt_path=run.dir.last if resumes else None, weights_only=True)
    except MisconfigurationException as error:  # of a callback of somebody's own that this trainer is not made for
        raise ConfigError([f"callbacks: {' '.join(str(error).split())}"]) from error
    except Exception as error:
        if number := stopped_by():  # which ended the loader's processes, too, and they were missed first
            raise Stopped(number) from error
        if trainer.received_sigterm:
            raise SIGTERMException from error
        raise
    finally:
        result.probe, probed = callbacks.probe.found, callbacks.probe.seconds
        result.timing["fit_seconds"] = round(time.monotonic() - start - probed, 3)
        result.timing["probe_seconds"] = round(probed, 3)
        result.timing["cache_seconds"] = round(callbacks.caching.seconds, 3)
        result.stages = callbacks.stage_records()
        result.peak_memory_mb = max((stage["peak_memory_mb"] for stage in result.stages), default=0.0)
        if run.dir.best.exists():
            result.best = _best(run, callbacks.recorder)
    untrained = [stage.name for stage in unfreezing.plan.stages[len(unfreezing.stage_starts) :]]
    if untrained:
        run.screen.line("stopped", f"by a callback, before stage {', '.join(untrained)}")
    row = result.best
    if row is None:
        raise TrainingError(f"{run.config.task.monitor} was a number in no epoch, so that none is the best")
    run.screen.line("best", f"{row['metric']} {row['value']:.4f} in epoch {row['epoch']}, stage {row['stage']}")
    if "quality" in result.pruning:
        measured = next(of for of in callbacks.recorder.rows if of["epoch"] == row["epoch"])
        result.pruning["quality"]["fine-tuned"] = measured[result.pruning["metric"]]
        run.screen.line("pruned", quality_words(result.pruning))


def _best(run: Run, recorder: Recorder) -> dict[str, Any] | None:
    """The epoch of best.ckpt, read from the checkpoint itself; None if a restart has yet to reach it."""
    epoch = int(read_tensors(run.dir.best, mmap=True)["epoch"])
    row = next((row for row in recorder.rows if row["epoch"] == epoch), None)
    if row is None:
        return None
    monitor = run.config.task.monitor
    return {
        "epoch": epoch,
        "stage": row["stage"],
        "metric": monitor,
        "mode": monitor_mode(run.config),
        "value": row[monitor],
        "checkpoint": run.dir.best.relative_to(run.dir.path).as_posix(),
    }


def _test(run: Run, trainer: Trainer, task: StagedTask, data: StagedData) -> dict[str, Predictions]:
    """Measure the best model on images that neither training nor the choice of it has seen.

    Returns what it says of these, and of validation, whose images it answers on the way.
    """
    result = run.result
    best = read_tensors(run.dir.best)
    task.load_state_dict(best["state_dict"])
    run.where = lambda: "in the test"
    measured, *_ = trainer.test(task, datamodule=data, verbose=False)
    result.test = {name: float(value) for name, value in measured.items()}
    numbers = "  ".join(f"{name.removeprefix('test/')} {value:.4f}" for name, value in result.test.items())
    run.screen.line("test", f"{numbers}  ({SPLIT_WORDS[run.config.data.split]})")
    result.calibration = CheckpointMetadata.of(best).calibration or {}
    predictions = predictions_of(task, result.calibration)
    if run.writes:
        write_predictions(predictions, task, result.calibration, data.source, run.dir)
    for about, text in judge(result, task, data, predictions):
        run.screen.line(about, text)
    return predictions
