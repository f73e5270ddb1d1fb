"""The model, the task and the trainer of a run, built from its configuration."""

from collections.abc import Mapping
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

from stagetune.artifacts import CheckpointMetadata, RunDir
from stagetune.config.schema import Config
from stagetune.data.mixing import Mixing
from stagetune.data.source import Pairs
from stagetune.errors import ConfigError
from stagetune.models.backbone import Backbone
from stagetune.run.checkpoints import AtomicCheckpoints
from stagetune.run.data import chunks_of
from stagetune.run.precision import LIGHTNING, device_type
from stagetune.run.tracking import build_logger
from stagetune.schedule.network import CameFrozen, describe
from stagetune.schedule.plan import Plan
from stagetune.seams import clipping_bf16
from stagetune.targets import build, check_target
from stagetune.tasks.staged_task import StagedTask

STAGE_KNOWS = ("optimizer", "total_steps", "T_max", "max_lr", "mode")  # what a torch scheduler is told by its stage


def check_targets(config: Config) -> None:
    """Raise `ConfigError` for anything that the configuration names and that does not exist or fit."""
    problems = check_target("optimizer", config.optimizer, positional=1)
    for part in (config.task, config.model, config.data, config.loss):
        problems += part.target_problems(config)
    if config.data.transform:
        problems += check_target("data.transform", config.data.transform)
    for group, parts, supplied in (
        ("callbacks", config.callbacks, ()),
        ("metrics", config.metrics, config.task.told),
    ):
        for name, given in parts.items():
            if not name.isidentifier():
                problems.append(f"{group}.{name}: cannot be a name; use letters, digits and _")
            problems += check_target(f"{group}.{name}", given, supplied)
    if config.logger.lightning:
        problems += check_target("logger.lightning", config.logger.lightning, ("save_dir",))
    for i, stage in enumerate(config.schedule.stages):
        if isinstance(stage.lr_scheduler, Mapping):
            settings = {
                key: value for key, value in stage.lr_scheduler.items() if key not in ("interval", "frequency")
            }
            problems += check_target(f"schedule.stages[{i}].lr_scheduler", settings, STAGE_KNOWS)
    if problems:
        raise ConfigError(problems)


def build_task(
    config: Config,
    backbone: Backbone,
    classes: int,
    metadata: CheckpointMetadata | None = None,
    pairs: Pairs | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
) -> StagedTask:
    """The LightningModule: the backbone under the head that the task asks for, with its loss.

    `metrics` are the user's own, which take part where something is measured: a plan has none, and no trained model,
    whose file does not say what is run.
    """
    data = config.data
    task = config.task.build(
        config.loss,
        backbone,
        classes,
        pairs,
        metrics or {},
        make_optimizer=build(config.optimizer, lr=0.0),
        metadata=metadata,
        chunks=chunks_of(config),
        mixing=Mixing(data.mixup, data.cutmix, classes) if data.mixes else None,
    )
    if data.mixes:
        config.loss.check_shares(task.loss, classes)
    return task


def came_frozen(config: Config) -> CameFrozen:
    return "open" if config.came_frozen == "open" else "hold"


def check_exact(plan: Plan, task: StagedTask) -> None:
    """Raise `ConfigError` if BatchNorm would see a part of a batch where it should see all of it."""
    norms = {parameter.name for parameter in describe(task).parameters if parameter.norm}
    training = [stage for stage in plan.stages if norms & set(stage.open)]
    if task.chunks > 1 and training:
        names = ", ".join(stage.name for stage in training)
        inner = [stage for stage in training if any(name.startswith("backbone.") for name in norms & set(stage.open))]
        frozen = " ".join(f"++schedule.stages.{stage.index}.batch_norm=frozen" for stage in inner)
        remedies = [f"freeze it ({frozen})"] if inner else []
        if any(not name.startswith("backbone.") for name in norms):
            remedies.append("give the head none (task.embedding=128)")
        raise ConfigError(
            [
                f"exact_accumulation: BatchNorm trains in stage {names} and would normalise each of {task.chunks} "
                f"parts by itself; {' and '.join(remedies)}, or use accumulation=x{task.chunks}"
            ]
        )


def build_trainer(config: Config, *, precision: str, callbacks: list[Callback], run_dir: RunDir) -> Trainer:
    loggers: list[Logger] = []
    if config.logger.lightning:
        loggers.append(build_logger(config.logger.lightning, run_dir))
    plugins: list[Any] = [AtomicCheckpoints()]
    if precision == "bf16":
        plugins.append(clipping_bf16(device_type(str(config.trainer.get("accelerator", "auto")))))
    try:
        return Trainer(
            **config.trainer,
            max_epochs=-1,  # the schedule's
            precision=None if precision == "bf16" else LIGHTNING[precision],  # type: ignore[arg-type]
            accumulate_grad_batches=1 if config.exact_accumulation else config.accumulation,
            callbacks=callbacks,
            logger=loggers or False,
            default_root_dir=run_dir.path,
            plugins=plugins,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # our samplers say themselves which images come
            enable_progress_bar=False,  # StageLines draws it
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise ConfigError([f"trainer: {error}"]) from error
