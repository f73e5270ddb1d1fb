"""`run_experiment`: build, fit, test, and write what a run leaves behind."""

import signal
import textwrap
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer, seed_everything

from stagetune.config.schema import Config
from stagetune.data.datamodule import StagedData
from stagetune.errors import Interrupted, ResultError
from stagetune.models.backbone import build_backbone
from stagetune.models.weights import load_into
from stagetune.report.result import FILE, RunResult, config_hash, write_result
from stagetune.run.build import (
    build_data,
    build_task,
    build_trainer,
    card_of,
    check_targets,
    check_unseen,
    part_sizes,
)
from stagetune.run.checkpoints import checkpoint_callbacks, mode_of
from stagetune.run.environment import environment
from stagetune.run.leftover import LeftoverBatches
from stagetune.run.pictures import draw_run
from stagetune.run.precision import device_type, resolve_precision
from stagetune.run.pretrained import find_weights
from stagetune.run.recorder import Recorder
from stagetune.run.screen import Screen, StageLines, quiet_libraries
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.freezing import describe
from stagetune.schedule.plan import Plan, make_plan
from stagetune.schedule.table import count_words, plan_table, plan_text
from stagetune.tasks.staged_task import StagedTask

SPLIT_WORDS = {
    "images": "unseen images of known identities",
    "identities": "identities never seen in training",
}


def run_experiment(config: Config, run_dir: Path) -> RunResult:
    """Run one experiment in `run_dir` and return its result; whatever happens, result.json says it.

    Raises `ResultError` if the directory already holds a result, and any `StagetuneError` of its parts.
    """
    if (run_dir / FILE).exists():
        raise ResultError(f"{run_dir} already holds a {FILE}; choose another directory with hydra.run.dir=...")
    quiet_libraries()
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    began = time.monotonic()
    run = _Run(config, run_dir, Screen())
    try:
        run.everything()
        run.result.status = "completed"
    except (KeyboardInterrupt, SystemExit, Interrupted) as stop:  # Lightning turns Ctrl-C into an exit
        run.result.status = "interrupted"
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
        last = run_dir / "checkpoints" / "last.ckpt"
        kept = f"; {last} has the weights so far" if last.exists() else ""
        raise Interrupted(f"interrupted{kept}; {run_dir / FILE} says so") from stop
    except Exception as error:
        run.result.error = {"type": type(error).__name__, "message": str(error)}
        raise
    finally:
        run.result.timing["total_seconds"] = round(time.monotonic() - began, 3)
        write_result(run.result, run_dir)
    run.screen.line("results", str(run_dir))
    return run.result


class _Run:
    """The state of one run, so that the result can be written from wherever it stops."""

    def __init__(self, config: Config, run_dir: Path, screen: Screen) -> None:
        self.config, self.run_dir, self.screen = config, run_dir, screen
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
            effective_batch_size=config.data.batch_size * config.accumulation,
            weights={"requested": config.model.weights, "used": ""},
            timing={"cache_seconds": 0.0},
        )

    def everything(self) -> None:
        config, result, line = self.config, self.result, self.screen.line
        line("run", f"{config.name}, seed {config.seed}")
        check_targets(config)
        self.device = device_type(str(config.trainer.get("accelerator", "auto")))
        result.precision = resolve_precision(config.precision, self.device)
        data = build_data(config)
        self._say_data(data)
        weights = find_weights(config, self.screen, run_experiment)
        check_unseen(data, weights, config.data.split)
        seed_everything(config.seed, workers=True, verbose=False)
        backbone = build_backbone(config.model.arch, stem=config.model.stem)
        weights = load_into(backbone, weights)
        result.weights["used"] = weights.used
        task = build_task(config, backbone, len(data.source.classes), card_of(config, data, weights))
        plan = make_plan(config.schedule, describe(task))
        (self.run_dir / "plan.txt").write_text(plan_text(plan))
        line(
            "model",
            f"{config.model.arch}, {count_words(plan.total_parameters)} parameters; weights {weights.used}",
        )
        self._fit_and_test(task, data, plan)

    def _fit_and_test(self, task: StagedTask, data: StagedData, plan: Plan) -> None:
        config, result = self.config, self.result
        recorder = Recorder(plan, self.run_dir / "metrics.csv" if config.logger.csv else None)
        best, checkpoints = checkpoint_callbacks(self.run_dir / "checkpoints", config.task.monitor)
        lines = StageLines(self.screen, plan, config.task.monitor)
        trainer = build_trainer(
            config,
            epochs=plan.epochs,
            precision=result.precision,
            callbacks=[StagedUnfreezing(plan), LeftoverBatches(), recorder, lines, *checkpoints],
            run_dir=self.run_dir,
        )
        result.environment = environment(trainer.strategy.root_device)
        self._say_set_up(data)
        self.screen.line("schedule", plan_table(plan))
        began = time.monotonic()
        try:
            trainer.fit(task, datamodule=data)
        finally:
            result.timing["fit_seconds"] = round(time.monotonic() - began, 3)
            result.stages = recorder.stage_records()
            result.peak_memory_mb = max((stage["peak_memory_mb"] for stage in result.stages), default=0.0)
            if best.best_model_path:
                result.best = self._best(best.best_model_path, recorder)
        assert result.best is not None
        row = result.best
        self.screen.line(
            "best", f"{row['metric']} {row['value']:.4f} in epoch {row['epoch'] + 1}, stage {row['stage']}"
        )
        self._test(trainer, task, data)
        draw_run(task, data, recorder, config.task.monitor, self.run_dir / "figures")

    def _best(self, path: str, recorder: Recorder) -> dict[str, Any]:
        """The epoch of best.ckpt, read from the checkpoint itself."""
        epoch = int(torch.load(path, map_location="cpu", weights_only=True)["epoch"])
        row = next(row for row in recorder.rows if row["epoch"] == epoch)
        monitor = self.config.task.monitor
        where = str(Path(path).resolve().relative_to(self.run_dir.resolve()))
        return {
            "epoch": epoch,
            "stage": row["stage"],
            "metric": monitor,
            "mode": mode_of(monitor),
            "value": row[monitor],
            "checkpoint": where,
        }

    def _test(self, trainer: Trainer, task: StagedTask, data: StagedData) -> None:
        assert self.result.best is not None
        best = torch.load(self.run_dir / self.result.best["checkpoint"], map_location="cpu", weights_only=True)
        task.load_state_dict(best["state_dict"])
        (measured,) = trainer.test(task, datamodule=data, verbose=False)
        self.result.test = {name: float(value) for name, value in measured.items()}
        numbers = "  ".join(f"{name.removeprefix('test/')} {value:.4f}" for name, value in self.result.test.items())
        self.screen.line("test", f"{numbers}  ({SPLIT_WORDS[self.config.data.split]})")

    def _say_data(self, data: StagedData) -> None:
        source, sizes = data.source, part_sizes(data.split)
        split = SPLIT_WORDS[self.config.data.split]
        self.result.data = {
            "name": source.name,
            "split": self.config.data.split,
            **sizes,
            "notes": source.notes,
        }
        counts = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
        text = f"{source.name}, {len(source):,} images of {len(source.classes)} classes"
        text += f" at {data.image_size} px; {counts}"
        if self.config.task.name == "siamese":
            text += f" ({split})"
        notes = [textwrap.shorten(note, 300, placeholder=" ... (result.json lists all)") for note in source.notes]
        self.screen.line("data", "\n".join([text, *notes]))

    def _say_set_up(self, data: StagedData) -> None:
        config, result = self.config, self.result
        if data.shape:
            batch = f"{data.shape[0]} identities x {data.shape[1]} images"
            result.batch_size = data.shape[0] * data.shape[1]
            result.effective_batch_size = result.batch_size * config.accumulation
        else:
            batch = f"{data.batch_size} images"
        asked = f" (asked: {config.precision})" if config.precision != result.precision else ""
        gather = f", a step every {config.accumulation} batches" if config.accumulation > 1 else ""
        self.screen.line("training", f"{result.precision}{asked} on {self.device}; batches of {batch}{gather}")
