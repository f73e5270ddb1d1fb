"""The model, the task and the trainer of a run, built from its configuration."""

from collections.abc import Mapping

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from stagetune.artifacts import CheckpointMetadata, RunDir
from stagetune.config.schema import Config, LossConfig, ModelConfig
from stagetune.data.pairs_csv import Pairs
from stagetune.errors import ConfigError
from stagetune.losses.metric_learning import MetricLearningLoss
from stagetune.losses.pairs import BCELoss, ContrastiveLoss
from stagetune.losses.triplet import TripletLoss
from stagetune.models.backbone import Backbone
from stagetune.models.backbones import own, resnet, vgg
from stagetune.models.heads import EmbeddingHead, hidden_head, linear_head
from stagetune.run.checkpoints import AtomicCheckpoints
from stagetune.run.data import chunks_of
from stagetune.run.precision import LIGHTNING
from stagetune.run.tracking import build_logger
from stagetune.schedule.network import CameFrozen, describe
from stagetune.schedule.plan import Plan
from stagetune.targets import build, check_target
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask


def check_targets(config: Config) -> None:
    """Raise `ConfigError` for anything that the configuration names and that does not exist or fit."""
    problems = check_target("optimizer", config.optimizer)
    if config.model.network:
        problems += check_target("model.network", config.model.network)
    if config.logger.lightning:
        problems += check_target("logger.lightning", config.logger.lightning)
    for i, stage in enumerate(config.schedule.stages):
        if isinstance(stage.lr_scheduler, Mapping):
            settings = {
                key: value for key, value in stage.lr_scheduler.items() if key not in ("interval", "frequency")
            }
            problems += check_target(f"schedule.stages[{i}].lr_scheduler", settings)
    if problems:
        raise ConfigError(problems)


def build_network(model: ModelConfig, image_size: int) -> Backbone:
    """The backbone with its initial weights; raises `ConfigError` for an own network that does not fit."""
    if model.network is not None:
        return own.Settings(network=model.network, blocks=model.blocks).build(image_size)
    if model.arch.startswith("vgg"):
        return vgg.Settings(arch=model.arch, pooled=model.pooled).build(image_size)
    return resnet.Settings(arch=model.arch, stem=model.stem, pooled=model.pooled).build(image_size)


def build_task(
    config: Config,
    backbone: Backbone,
    classes: int,
    metadata: CheckpointMetadata | None = None,
    pairs: Pairs | None = None,
) -> StagedTask:
    """The LightningModule: the backbone under the head that the task asks for, with its loss."""
    task, loss = config.task, config.loss
    shared = {"make_optimizer": build(config.optimizer, lr=0.0), "metadata": metadata, "chunks": chunks_of(config)}
    if task.name == "siamese":
        embedding = EmbeddingHead(
            backbone.out_features,
            task.embedding,
            hidden=task.hidden,
            dropout=task.dropout,
            is_weighted=loss.distance == "weighted_l1",
        )
        siamese_loss = build_siamese_loss(loss, classes, embedding.dimensions)
        return SiameseTask(
            backbone,
            embedding,
            siamese_loss,
            distance=loss.distance,
            calibration=(task.calibrate, task.far),
            eval_pairs=task.eval_pairs,
            pairs=pairs,
            **shared,
        )
    if task.head == "linear":
        head: nn.Module = linear_head(backbone.out_features, classes)
    else:
        head = hidden_head(backbone.out_features, classes, hidden=task.hidden, dropout=task.dropout)
    cost = nn.CrossEntropyLoss(label_smoothing=loss.label_smoothing)
    return ClassificationTask(backbone, head, cost, classes=classes, **shared)


def came_frozen(config: Config) -> CameFrozen:
    return "open" if config.came_frozen == "open" else "hold"


def check_exact(plan: Plan, task: StagedTask) -> None:
    """Raise `ConfigError` if BatchNorm would see a part of a batch where it should see all of it."""
    norms = {parameter.name for parameter in describe(task).parameters if parameter.norm}
    training = [stage for stage in plan.stages if norms & set(stage.open)]
    if task.chunks > 1 and training:
        names = ", ".join(stage.name for stage in training)
        inner = [stage for stage in training if any(name.startswith("backbone.") for name in norms & set(stage.open))]
        frozen = " ".join(f"schedule.stages.{stage.index}.batch_norm=frozen" for stage in inner)
        remedies = [f"freeze it ({frozen})"] if inner else []
        if any(not name.startswith("backbone.") for name in norms):
            remedies.append("give the head none (task.embedding=128)")
        raise ConfigError(
            [
                f"exact_accumulation: BatchNorm trains in stage {names} and would normalise each of {task.chunks} "
                f"parts by itself; {' and '.join(remedies)}, or use accumulation=x{task.chunks}"
            ]
        )


def build_siamese_loss(loss: LossConfig, identities: int, dimensions: int) -> nn.Module:
    if loss.name == "contrastive":
        return ContrastiveLoss(loss.margin, loss.distance)
    if loss.name == "triplet":
        return TripletLoss(loss.margin, loss.mining, soft_margin=loss.soft_margin, distance=loss.distance)
    if loss.name == "bce":
        return BCELoss(loss.distance)
    settings = {"temperature": loss.temperature, "margin": loss.margin, "scale": loss.scale}
    return MetricLearningLoss(loss.name, identities=identities, dimensions=dimensions, **settings)


def build_trainer(config: Config, *, precision: str, callbacks: list[Callback], run_dir: RunDir) -> Trainer:
    loggers: list[Logger] = []
    if config.logger.lightning:
        loggers.append(build_logger(config.logger.lightning, run_dir))
    try:
        return Trainer(
            **config.trainer,
            max_epochs=-1,  # the schedule's
            precision=LIGHTNING[precision],  # type: ignore[arg-type]
            accumulate_grad_batches=1 if config.exact_accumulation else config.accumulation,
            callbacks=callbacks,
            logger=loggers or False,
            default_root_dir=run_dir.path,
            plugins=[AtomicCheckpoints()],
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # our samplers say themselves which images come
            enable_progress_bar=False,  # StageLines draws it
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError([f"trainer: {error}"]) from error
