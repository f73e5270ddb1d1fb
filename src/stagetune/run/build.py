"""The parts of a run, built from its configuration. The only place that knows both."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger
from torch import nn

from stagetune.cache.features import decode
from stagetune.cache.key import images_key
from stagetune.cache.store import Store
from stagetune.config.schema import Config, DataConfig, LossConfig, ModelConfig, TaskConfig
from stagetune.config.validate import READ_FROM
from stagetune.data.centred import Centred
from stagetune.data.datamodule import StagedData
from stagetune.data.digits import Digits
from stagetune.data.glyphs import Glyphs
from stagetune.data.identity_csv import identity_csv
from stagetune.data.image_folder import image_folder
from stagetune.data.lfw import lfw
from stagetune.data.omniglot import omniglot
from stagetune.data.pairs_csv import Pairs, pairs_csv
from stagetune.data.source import Source
from stagetune.data.spliced import splice
from stagetune.data.splits import Split, check_explicit_pairs, check_pairs, make_split
from stagetune.data.turned import turned
from stagetune.errors import ConfigError, DataError
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.roc import RESOLVED
from stagetune.losses.metric_learning import MetricLearningLoss
from stagetune.losses.pairs import BCELoss, ContrastiveLoss
from stagetune.losses.triplet import TripletLoss
from stagetune.models.backbone import Backbone, build_backbone
from stagetune.models.heads import EmbeddingHead, hidden_head, linear_head
from stagetune.models.own import OwnBackbone, own_backbone
from stagetune.models.weights import Weights
from stagetune.run.checkpoints import AtomicCheckpoints
from stagetune.run.precision import LIGHTNING
from stagetune.run.pretrained import cache_folder
from stagetune.run.targets import build, check_target
from stagetune.run.tracking import build_logger
from stagetune.schedule.network import CameFrozen, describe
from stagetune.schedule.plan import Plan
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


def build_source(data: DataConfig) -> tuple[Source, Pairs | None]:
    """The images, and the pairs where a table gives them."""
    if data.name == "digits":
        return Digits(), None
    if data.name == "glyphs":
        glyphs = Glyphs(
            image_size=data.image_size,
            images_per_identity=data.images_per_identity,
            scripts=data.groups,
            seed=data.seed,
        )
        return glyphs, None
    if data.name == "identity_csv":
        return identity_csv(str(data.csv), on_error=data.on_error), None
    if data.name == "pairs":
        return pairs_csv(str(data.pairs), on_error=data.on_error)
    if data.name == "lfw":
        return lfw(str(data.root), on_error=data.on_error)
    if data.name == "omniglot":
        return omniglot(str(data.root), alphabets=data.groups, on_error=data.on_error), None
    return image_folder(str(data.root), identity_depth=data.identity_depth, on_error=data.on_error), None


def build_data(config: Config, *, rank: int = 0, world_size: int = 1) -> StagedData:
    data, task = config.data, config.task
    source, pairs = build_source(data)
    split = make_split(
        source,
        by=data.split,
        val=data.val,
        test=data.test,
        seed=data.seed,
        val_groups=data.val_groups,
        test_groups=data.test_groups,
    )
    if pairs is not None:
        if across := check_explicit_pairs(split, pairs):
            source.notes.append(f"{across} of {len(pairs.is_same)} pairs lie across two parts and are not used")
    elif task.name == "siamese":
        check_pairs(source, split)
    if data.centred:
        source = Centred(source)
    if data.spliced:
        source, split = splice(source, split, data.spliced, data.seed)
    if data.turned:
        source, split = turned(source, split)
    is_uniform = task.name == "classifier" or task.batches == "uniform"
    if task.name == "siamese" and task.calibrate == "far":
        _check_far(task, source, split, pairs)
    return StagedData(
        source,
        split,
        image_size=data.image_size,
        batch_size=data.batch_size,
        augment=data.augment,
        images_per_identity=None if is_uniform else task.images_per_identity,
        by_group=task.batches == "by_group",
        num_workers=loader_workers(data) if data.num_workers is None else data.num_workers,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        views=config.cache.views,
        chunks=chunks_of(config),
        pairs=pairs,
    )


def _check_far(task: TaskConfig, source: Source, split: Split, pairs: Pairs | None) -> None:
    """Raise `DataError` where validation has too few different pairs to know the false accept rate that is wanted."""
    if pairs is None:
        labels = source.labels[split.val]
        first, second = evaluation_pairs(labels, task.eval_pairs)
        different = int((labels[first] != labels[second]).sum())
    else:
        different = int((np.isin(pairs.first, split.val) & (pairs.is_same == 0)).sum())
    if different * task.far < RESOLVED:
        raise DataError(
            f"task.calibrate=far: a false accept rate of {task.far:g} needs {round(RESOLVED / task.far):,} different "
            f"pairs in validation, {different:,} are measured; choose a larger task.far, or give more images"
        )


def build_store(config: Config, say: Callable[[str], None], *, writes: bool) -> Store:
    cache = config.cache
    folder = cache_folder() / "tables"
    return Store(folder, memory_gb=cache.memory_gb, disk_gb=cache.disk_gb, say=say, writes=writes)


def decode_once(data: StagedData, store: Store) -> None:
    """Decode all images now, or take what an earlier run has decoded, if they fit into the cache's budget."""
    key = images_key(data.source.contents, data.image_size)
    with store.lock(key):
        table = store.get(key)
        if table is None:
            table = store.new(key, [len(data.source), 3, data.image_size, data.image_size], torch.uint8)
            if table is None:
                return
            decode(data.source, data.image_size, table)
            store.put(key, table)
    for images in data.parts.values():
        images.decoded = table


def write_config(config: Config, run_dir: Path) -> None:
    """config.yaml in one piece: what the run was asked to do, all of it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    draft = run_dir / "config.yaml.tmp"
    draft.write_text(yaml.safe_dump(asdict(config), sort_keys=False))
    os.replace(draft, run_dir / "config.yaml")


def loader_workers(data: DataConfig) -> int:
    """Processes that decode files: all cores but one, at most 8; none for images that are made in memory."""
    return min(8, (os.cpu_count() or 1) - 1) if data.name in READ_FROM else 0


def check_unseen(data: StagedData, weights: Weights, split_by: str) -> None:
    """Raise `DataError` if the weights were trained on images, or on identities, that count as unseen here."""
    source, split = data.source, data.split
    held_out = np.concatenate([split.val, split.test]).tolist()
    if known := [i for i in held_out if _short(source.contents[i]) in weights.images]:
        raise DataError(
            f"the weights {weights.used} were trained on {len(known)} of the {len(held_out)} images of validation "
            f"and test, such as {source.describe(known[0])}; use the data.seed of that training, or other weights"
        )
    if split_by == "identities":
        seen = set(weights.trained_on.get(source.origin, []))
        unseen = {source.classes[label] for label in source.labels[held_out].tolist()}
        if shared := sorted(unseen & seen):
            raise DataError(
                f"data.split=identities, but the weights {weights.used} were trained on {len(shared)} of the "
                f"identities that should be unseen, such as {shared[0]}; choose other val and test identities, "
                "or other weights"
            )


def build_network(model: ModelConfig, image_size: int) -> Backbone | OwnBackbone:
    """The backbone with its initial weights; raises `ConfigError` for an own network that does not fit."""
    if model.network is None:
        return build_backbone(model.arch, stem=model.stem, pooled=model.pooled)
    return own_backbone(build(model.network)(), model.blocks, image_size)


def build_task(
    config: Config, backbone: Backbone | OwnBackbone, classes: int, card: dict[str, Any], pairs: Pairs | None = None
) -> StagedTask:
    task, loss = config.task, config.loss
    shared = {"make_optimizer": build(config.optimizer, lr=0.0), "card": card, "chunks": chunks_of(config)}
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


def chunks_of(config: Config) -> int:
    """In how many parts a training batch is encoded."""
    return config.accumulation if config.exact_accumulation else 1


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


def build_trainer(config: Config, *, precision: str, callbacks: list[Callback], run_dir: Path) -> Trainer:
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
            default_root_dir=run_dir,
            plugins=[AtomicCheckpoints()],
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # our samplers say themselves which images come
            enable_progress_bar=False,  # StageLines draws it
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError([f"trainer: {error}"]) from error


def part_sizes(split: Split) -> dict[str, int]:
    return {part: len(indices) for part, indices in split.parts().items()}


def card_of(config: Config, data: StagedData, weights: Weights) -> dict[str, Any]:
    """What a checkpoint says of itself: plain data from which the model can be built again.

    `trained_on` and `images` name every class and image that it has seen in training, pretraining included.
    """
    source, train = data.source, data.split.train.tolist()
    classes = {source.classes[label] for label in source.labels[train].tolist()}
    before = set(weights.trained_on.get(source.origin, []))
    return {
        "config": asdict(config),
        "classes": list(source.classes),
        "weights": weights.used,
        "trained_on": {**weights.trained_on, source.origin: sorted(classes | before)},
        "images": sorted(weights.images | {_short(source.contents[i]) for i in train}),
    }


def _short(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
