"""The images that a run was trained and validated on, for checking what is exported of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from stagetune.artifacts import CheckpointMetadata
from stagetune.config.parts import of_data
from stagetune.config.schema import Config
from stagetune.config.settings import NoLoss
from stagetune.config.validate import named_own, read_config
from stagetune.data.datamodule import StagedData
from stagetune.errors import ConfigError, DataError, StagetuneError
from stagetune.inference.checkpoint import Untrusted
from stagetune.run.data import build_data
from stagetune.targets import foreign_targets

BATCH = 32


def data_of(metadata: CheckpointMetadata, words: Sequence[str], *, trust: bool) -> StagedData:
    """The data of a run, divided as in its training, and as its validation sees them.

    Args:
        metadata: of its checkpoint.
        words: what holds of the data today, such as data.root=/data/faces where the folder has moved.
        trust: whether a data set of somebody's own, which the checkpoint names, may be imported and run.

    Raises:
        ConfigError: for words of anything but data.
        DataError: where the images cannot be had.
        WeightsError: without `trust` for data that is read by code from elsewhere, unless the words name it.
    """
    config = read_config(_moved(metadata.config, words))
    is_typed = any(word.startswith("data._target_=") for word in words)
    foreign = foreign_targets({"data": getattr(config.data, "target", None)})
    if foreign and not (trust or is_typed):
        raise Untrusted(
            f"its data is read by {' and '.join(foreign)}, code that the checkpoint names and does not hold; if you "
            f"trust where it comes from, add --trust, or data._target_={foreign[0]}"
        )
    missing = [problem for part in of_data(config.data) for problem in part.problems(config.data, config)]
    try:
        if missing:
            raise DataError("; ".join(missing))
        return build_data(_unaugmented(config))
    except StagetuneError as error:
        raise DataError(
            f"an export is checked on the run's own images, and they cannot be had: {error}; say where they are, "
            "such as data.root=FOLDER"
        ) from error


def training_images(data: StagedData, count: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Batches of about `count` training images from all over the data, without augmentation."""
    images = data.parts["plain"]
    places = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int).tolist()
    for start in range(0, len(places), BATCH):
        batch = images[[(0, place) for place in places[start : start + BATCH]]]
        yield batch.inputs.contiguous().numpy()


def _moved(stored: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The stored configuration with what the words say of its data."""
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.startswith("data.") or not key.removeprefix("data."):
            raise ConfigError([f"{word}: only what reads the data can be said here, such as data.root=FOLDER"])
        given[key.removeprefix("data.")] = yaml.safe_load(value)
    data = {**named_own(stored)["data"], **given} if given else stored.get("data", {})
    return {**stored, "data": data}


def _unaugmented(config: Config) -> Config:
    """Without what only training has, some of which may be code of somebody's own."""
    plain = replace(config.data, transform=None, augment="none", random_erasing=0.0, sampler="shuffled")
    return replace(config, data=plain, loss=NoLoss(distance=config.loss.measure()))
