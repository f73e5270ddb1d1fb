"""The untouched features of all images, where weights are at hand: through the feature cache, as a run's probe."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.seed import isolate_rng

from stagetune.artifacts import RunDir
from stagetune.cache.tables import Tables
from stagetune.config.schema import Config, LoggerConfig
from stagetune.data.datamodule import StagedData
from stagetune.data.facts import Range
from stagetune.data.source import Source
from stagetune.data.splits import Split
from stagetune.errors import StagetuneError, WeightsError
from stagetune.models.backbone import Backbone
from stagetune.models.cut import rebuild
from stagetune.models.imagenet import at_hand_only
from stagetune.models.weights import Weights, load_into
from stagetune.run.build import build_trainer
from stagetune.run.data import build_store, decode_once, loader_workers, reading_of
from stagetune.run.precision import device_type, products, resolve_precision
from stagetune.run.pretrained import find_weights
from stagetune.run.screen import Screen, quiet_libraries


class _Untouched(LightningModule):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone


def untouched_features(
    config: Config, source: Source, split: Split, scale: Range | None, screen: Screen
) -> tuple[npt.NDArray[np.floating[Any]] | None, str]:
    """The features [n, d] that a run would begin with, and of which weights they are; None, and why there are none.

    Nothing is downloaded or pretrained for them. A run on the same images finds them in the feature cache.
    """
    try:
        weights = _at_hand(config)
        if weights.state is None:
            return None, "the weights are random (model.weights), and features of such say little"
        return _computed(config, source, split, scale, weights, screen), weights.used
    except StagetuneError as error:
        return None, " ".join(str(error).split())


def _at_hand(config: Config) -> Weights:
    def pretrain(*_: object) -> NoReturn:
        where = f"ImageNet's are looked for {config.model.pretrained_at()}"
        raise WeightsError(f"no weights of {config.model.title()} are at hand: {where}")

    with at_hand_only():
        return find_weights(config, Screen(quiet=True), pretrain)


def _computed(
    config: Config, source: Source, split: Split, scale: Range | None, weights: Weights, screen: Screen
) -> npt.NDArray[np.floating[Any]]:
    wanted, accelerator = config.input(), str(config.trainer.get("accelerator", "auto"))
    precision = resolve_precision(config.precision, device_type(accelerator))
    backbone = config.model.build(wanted.size)
    rebuild(backbone, weights.pruning, wanted.size)
    load_into(backbone, weights)
    data = StagedData(
        source,
        split,
        image_size=wanted.size,
        interpolation=wanted.interpolation,
        resize=config.data.resize,
        batch_size=config.data.batch_size,
        num_workers=loader_workers(config.data) if config.data.num_workers is None else config.data.num_workers,
        scale=scale,
    )
    alone = replace(config, trainer={"accelerator": accelerator, "devices": 1}, logger=LoggerConfig(csv=False))
    with quiet_libraries(), isolate_rng(include_cuda=False), products(precision):
        store = build_store(config, lambda text: screen.line("cache", text), writes=True)
        if config.cache.images == "auto":
            with reading_of(config, screen, decodes_once=False) as reading:
                decode_once(data, store, reading)
        trainer = build_trainer(alone, precision=precision, callbacks=[], run_dir=RunDir(Path("outputs")))
        network = _Untouched(backbone).eval()
        trainer.strategy.connect(network)
        network.to(trainer.strategy.root_device)
        tables, depth = Tables(data, store, config.cache, trainer), len(backbone.blocks)
        values = np.zeros((len(source), backbone.out_features), dtype=np.float32)
        for part in (part for part in ("plain", "val", "test") if len(data.parts[part])):
            images, made = data.parts[part], tables.features(part, depth, [depth])
            if made is None:
                raise WeightsError("they do not fit into the cache (cache.memory_gb, cache.disk_gb)")
            values[images.indices] = made.table.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise WeightsError(f"some features of {weights.used} are no finite numbers")
    return values
