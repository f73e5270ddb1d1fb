"""Trackers: Lightning logs the metrics; here is what else they are told of a run."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from stagetune.artifacts import RunDir, stored_json, write_text
from stagetune.errors import ResultError
from stagetune.report.result import RunResult
from stagetune.schedule.plan import PlannedStage
from stagetune.targets import build


def build_logger(settings: Mapping[str, Any], run_dir: RunDir) -> Logger:
    """The logger that `settings` name; of MLflow the run that `run_dir` began, if it did, below that of its sweep."""
    os.environ.setdefault("WANDB_SILENT", "true")  # the screen is the run's own
    if str(settings["_target_"]).rpartition(".")[2] != "MLFlowLogger":
        return build(settings, save_dir=str(run_dir))()  # type: ignore[no-any-return]
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)  # that a database is made
    sweep, tags, name = run_dir.sweep, dict(settings.get("tags") or {}), run_dir.path.name
    if run_dir.is_job:
        with FileLock(sweep / ".mlflow.lock"):  # the first of its jobs makes the sweep's run
            parent = _begun(settings, RunDir(sweep), sweep.name, {**tags, "sweep": sweep.name})
        tags |= {"sweep": sweep.name, "mlflow.parentRunId": str(parent.run_id)}
        name = str(run_dir.path.relative_to(sweep))
    return _begun(settings, run_dir, name, tags)


def _begun(settings: Mapping[str, Any], folder: RunDir, name: str, tags: Mapping[str, str]) -> MLFlowLogger:
    """The run that `folder` belongs to, or a new one."""
    known = folder.tracker
    more = {"run_id": _run_id(known)} if known.exists() else {"run_name": name, "tags": tags}
    logger: MLFlowLogger = build({**settings, **more}, save_dir=str(folder))()
    write_text(known, json.dumps({"run_id": logger.run_id}) + "\n")
    return logger


def _run_id(known: Path) -> str:
    """The run that the tracker knows; raises `ResultError` for a file that does not say it."""
    try:
        if isinstance(found := stored_json(known)["run_id"], str):
            return found
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise ResultError(f"{known} is damaged; remove it, and the tracker has a new run for what follows")


class Tracking(Callback):
    """Tells trackers the configuration, and MLflow which stage is being trained."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            logger.log_hyperparams(dict(self.config))

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        for logger in trainer.loggers:
            _tag(logger, stage=stage.name)


def track_result(logger: Logger, result: RunResult, run_dir: RunDir) -> None:
    """Tell the tracker, once result.json is written, how the run ended, and MLflow what it left."""
    if isinstance(logger, WandbLogger):
        # a run that is not finished is taken up by the next job of this process
        logger.experiment.finish(exit_code=0 if result.status == "completed" else 1)
    if isinstance(logger, MLFlowLogger):
        _tag(logger, status=result.status, schedule=result.schedule, precision=result.precision)
        logger.log_metrics(result.test)
        for path in (run_dir.result, run_dir.plan, run_dir.config, run_dir.metrics, run_dir.figures):
            if path.is_dir():
                logger.experiment.log_artifacts(logger.run_id, str(path), path.name)
            elif path.exists():
                logger.experiment.log_artifact(logger.run_id, str(path))
        logger.finalize("success" if result.status == "completed" else "failed")


def _tag(logger: Logger, **tags: str) -> None:
    if isinstance(logger, MLFlowLogger):
        for key, value in tags.items():
            logger.experiment.set_tag(logger.run_id, key, value)
