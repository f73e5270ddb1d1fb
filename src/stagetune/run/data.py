"""The data of a run: its source, the split, what is known of it before, and decoding it once."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from stagetune.artifacts import CheckpointMetadata
from stagetune.cache.features import decode
from stagetune.cache.key import images_key
from stagetune.cache.store import Store
from stagetune.config.schema import Config, DataConfig, TaskConfig
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
from stagetune.data.transforms import own_transform
from stagetune.data.turned import turned
from stagetune.errors import DataError
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.roc import RESOLVED
from stagetune.models.weights import Weights
from stagetune.run.pretrained import cache_folder


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
    """The loaders over source and split; raises `DataError` for images that cannot be trained on so."""
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
        transform=own_transform(data.transform) if data.transform else None,
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


def loader_workers(data: DataConfig) -> int:
    """Processes that decode files: all cores but one, at most 8; none for images that are made in memory."""
    return min(8, (os.cpu_count() or 1) - 1) if data.name in READ_FROM else 0


def part_sizes(split: Split) -> dict[str, int]:
    return {part: len(indices) for part, indices in split.parts().items()}


def build_store(config: Config, say: Callable[[str], None], *, writes: bool) -> Store:
    """The cache of this machine's user; `say` is told where it cannot be used."""
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


def chunks_of(config: Config) -> int:
    """In how many parts a training batch is encoded."""
    return config.accumulation if config.exact_accumulation else 1


def metadata_of(config: Config, data: StagedData, weights: Weights) -> CheckpointMetadata:
    """What the checkpoints of a run say of themselves."""
    source, train = data.source, data.split.train.tolist()
    classes = {source.classes[label] for label in source.labels[train].tolist()}
    before = set(weights.trained_on.get(source.origin, []))
    return CheckpointMetadata(
        config=asdict(config),
        classes=list(source.classes),
        weights=weights.used,
        trained_on={**weights.trained_on, source.origin: sorted(classes | before)},
        images=sorted(weights.images | {_short(source.contents[i]) for i in train}),
    )


def _short(content: str) -> str:
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()
