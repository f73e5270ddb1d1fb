"""The data of a run: its source, the split, what is known of it before, and decoding it once."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial

import numpy as np
import torch

from stagetune.artifacts import CheckpointMetadata
from stagetune.cache.features import decode
from stagetune.cache.key import images_key
from stagetune.cache.store import GB, Store
from stagetune.config.parts import wrappers_of
from stagetune.config.schema import Config
from stagetune.config.settings import DataSettings, LossSettings
from stagetune.data.augmentation import Augmentation
from stagetune.data.contents import Kept, contents_of, short
from stagetune.data.datamodule import StagedData
from stagetune.data.facts import Range, notes_of, range_of
from stagetune.data.image_files import ImageFiles
from stagetune.data.known import KnownFiles
from stagetune.data.own_transform import own_transform
from stagetune.data.reading import Reading
from stagetune.data.source import Pairs, Source
from stagetune.data.sources.own import OwnImages
from stagetune.data.splits import Split, check_explicit_pairs, copies_across, make_split, split_notes
from stagetune.data.transforms import prepare
from stagetune.errors import DataError
from stagetune.models.weights import Weights
from stagetune.run.pretrained import cache_folder
from stagetune.run.screen import Screen


def known_files(say: Callable[[str], None]) -> KnownFiles:
    """The images that this machine's user has had read; `say` is told where they cannot be kept."""
    return KnownFiles(cache_folder() / "known", say=say)


@contextmanager
def reading_of(config: Config, screen: Screen, *, decodes_once: bool) -> Iterator[Reading]:
    """How a run reads its images: within, `build_data` and, with `decodes_once`, `decode_once` are to be called."""
    cache, wanted = config.cache, config.input()
    square = partial(prepare, size=wanted.size, interpolation=wanted.interpolation, resize=config.data.resize)
    reading = Reading(
        needed=wanted.size,
        max_megapixels=config.data.max_megapixels,
        known=known_files(lambda text: screen.line("cache", text)),
        square=square if decodes_once else None,
        keep_bytes=cache.memory_gb * GB,
        table_bytes=max(cache.memory_gb, cache.disk_gb) * GB,
        counting=screen.counting,
        say=lambda text: screen.line("read", text),
    )
    try:
        yield reading
    finally:
        reading.close()


def build_data(
    config: Config,
    *,
    reading: Reading | None = None,
    rank: int = 0,
    world_size: int = 1,
    trained: CheckpointMetadata | None = None,
) -> StagedData:
    """The loaders over source and split; raises `DataError` for images that cannot be trained on so.

    And `ConfigError` for a loss that does not fit their classes. Deep images are scaled as in the training of the
    checkpoint that `trained` describes, if there is one.
    """
    data, task, wanted = config.data, config.task, config.input()
    with ExitStack() as stack:
        reading = reading or stack.enter_context(reading_of(config, Screen(quiet=True), decodes_once=False))
        source, pairs, scale = build_source(config, reading, trained)
    division = data.division()
    split = make_split(source, **division, published=data.published)
    source.notes.extend(split_notes(source, split, data.split))
    if source.split and "val" not in source.split:
        source.notes.append(f"validation is drawn from train by data.val={division['val']}: the data brings none")
    elif source.split and "test" not in source.split:
        source.notes.append(
            f"half of val, drawn by data.seed={division['seed']}, is the test: the data brings none of its own"
        )
    if data.published and (copies := copies_across(source, split)):
        source.notes.append(
            f"{len(copies)} images have a copy in another part; they stay, since results are compared on the data "
            f"as it is; the first stands {copies[0]}"
        )
    if pairs is not None and (across := check_explicit_pairs(split, pairs)):
        source.notes.append(f"{across} of {len(pairs.is_same)} pairs lie across two parts and are not used")
    task.check(source, split, pairs)
    for wrapper in wrappers_of(data):
        source, split = wrapper.wrap(data, source, split, division["seed"])
    images_per_identity, by_group = task.batches_of()
    built = StagedData(
        source,
        split,
        image_size=wanted.size,
        interpolation=wanted.interpolation,
        resize=data.resize,
        batch_size=data.batch_size,
        augmentation=_augmentation(config, division["seed"]),
        images_per_identity=images_per_identity,
        by_group=by_group,
        num_workers=loader_workers(data) if data.num_workers is None else data.num_workers,
        seed=config.seed,
        rank=rank,
        world_size=world_size,
        views=config.cache.views,
        chunks=chunks_of(config),
        pairs=pairs,
        balanced=data.sampler == "balanced",
        mixes=data.mixes,
        scale=scale,
    )
    loss_of(config, built)  # what does not fit the classes is said before anything is computed
    return built


def build_source(
    config: Config, reading: Reading, trained: CheckpointMetadata | None = None
) -> tuple[Source, Pairs | None, Range | None]:
    """The images, looked at as `reading` does it; the pairs of a table that gives any; the range of deep images.

    Raises `DataError` for images that cannot be read. For `trained` see `build_data`.
    """
    with reading.applied():
        source, pairs = config.data.build(config.input().size)
    return source, pairs, _scaled(source, config.data, trained)


def _scaled(source: Source, data: DataSettings, trained: CheckpointMetadata | None) -> Range | None:
    """The range of a source's deep images, by which it gives them from now on; says what its images are."""
    if not isinstance(source, ImageFiles | OwnImages):
        return None
    said = trained.range if trained and trained.range else data.range
    is_deep = any(facts.low is not None for facts in source.facts)
    source.scale = (Range(*said) if said else range_of(source.facts)) if is_deep else None
    source.notes.extend(notes_of(source.facts, source.describe, source.scale))
    return source.scale


def _augmentation(config: Config, seed: int) -> Augmentation:
    data = config.data
    mean = config.model.mean or config.input().mean
    return Augmentation(
        kind=data.augment,
        own=own_transform(data.transform) if data.transform else None,
        erasing=data.random_erasing,
        colour=tuple(round(255 * value) for value in mean),
        seed=seed,
    )


def loader_workers(data: DataSettings) -> int:
    """Processes that decode files: all cores but one, at most 8; none for images that are made in memory."""
    return min(8, (os.cpu_count() or 1) - 1) if data.reads_files else 0


def part_sizes(split: Split) -> dict[str, int]:
    return {part: len(indices) for part, indices in split.parts().items()}


def build_store(config: Config, say: Callable[[str], None], *, writes: bool) -> Store:
    """The cache of this machine's user; `say` is told where it cannot be used."""
    cache = config.cache
    folder = cache_folder() / "tables"
    return Store(folder, memory_gb=cache.memory_gb, disk_gb=cache.disk_gb, say=say, writes=writes)


def decode_once(data: StagedData, store: Store, reading: Reading) -> None:
    """Decode all images now, or take what an earlier run has decoded, if they fit into the cache's budget.

    What the `reading` that the data were built by has decoded is taken from it.
    """
    key = images_key(data.source.contents, data.image_size, data.interpolation, data.resize, str(data.scale))
    with store.lock(key):
        table = store.get(key)
        if table is None:
            table = store.new(key, [len(data.source), 3, data.image_size, data.image_size], torch.uint8)
            if table is None:
                return
            with reading.timed(), reading.counting("preparing images", len(table)) as advance:
                for is_read in decode(data.parts["plain"], table, take=reading.take):
                    reading.read += is_read
                    advance()
            store.put(key, table)
    for images in data.parts.values():
        images.decoded = table


def check_unseen(data: StagedData, weights: Weights, split_by: str) -> None:
    """Raise `DataError` if the weights were trained on images, or on identities, that count as unseen here."""
    source, split = data.source, data.split
    held_out = np.concatenate([split.val, split.test]).tolist()
    trained = {source.contents[i] for i in split.train.tolist()}  # published data may have copies
    images = [i for i in held_out if source.contents[i] not in trained]
    if known := [i for i in images if short(source.contents[i]) in weights.images]:
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


def loss_of(config: Config, data: StagedData) -> LossSettings:
    """The settings of the loss for the classes of the data; raises `ConfigError` where they do not fit."""
    classes = data.source.classes
    counts = np.bincount(data.source.labels[data.split.train], minlength=len(classes))
    return config.loss.for_classes(classes, counts.tolist())


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
        images=sorted(weights.images | {short(source.contents[i]) for i in train}),
        pruning=list(weights.pruning),
        data=kept_contents(config, data),
        range=[data.scale.low, data.scale.high] if data.scale else None,
    )


def kept_contents(config: Config, data: StagedData) -> Kept:
    """What its checkpoints keep of a run's data, by which a run that goes on knows them."""
    by_group = config.data.split != "images" or config.task.batches_of()[1]
    return contents_of(data.source, data.split, data.pairs, by_group=by_group)
