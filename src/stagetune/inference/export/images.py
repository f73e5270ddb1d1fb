"""The images that a run was trained and validated on, for checking what is exported of it."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from stagetune.artifacts import CheckpointMetadata
from stagetune.config.parts import OWN, of_data, part
from stagetune.config.resume import without_download
from stagetune.config.schema import Config
from stagetune.config.settings import NoLoss
from stagetune.config.validate import named_own, read_config
from stagetune.data.datamodule import StagedData
from stagetune.errors import ConfigError, DataError, StagetuneError
from stagetune.run.data import build_data
from stagetune.trust import Trust, Untrusted, foreign

BATCH = 32
MAY_DIFFER = ("batch_size", "num_workers")  # of what any data reads: they change no image


def data_of(metadata: CheckpointMetadata, words: Sequence[str], *, trust: Trust) -> StagedData:
    """The data of a run, divided as in its training, and as its validation sees them.

    Args:
        metadata: of its checkpoint.
        words: what holds of the data today, such as data.root=/data/faces where the folder has moved.
        trust: whether a data set of somebody's own, which the checkpoint names, may be imported and run; or the names
            of those that may.

    Raises:
        ConfigError: for words of anything but data.
        DataError: where the images cannot be had.
        WeightsError: without `trust` for data that is read by code from elsewhere, unless the words name it.
    """
    config = read_config(_moved(without_download(metadata.config), words))
    target = getattr(config.data, "target", None)
    typed = [word.partition("=")[2] for word in words if word.startswith(("data._target_=", "data.target._target_="))]
    code = [one.value for one in foreign({"data": {"target": target}}, typed if trust is False else trust)]
    if code:
        raise Untrusted(
            f"its data is read by {' and '.join(code)}, code that the checkpoint names and does not hold; if you "
            f"trust where it comes from, add --trust, or data._target_={code[0]}"
        )
    missing = [problem for part in of_data(config.data) for problem in part.problems(config.data, config)]
    try:
        if missing:
            raise DataError("; ".join(missing))
        return build_data(_unaugmented(config), trained=metadata)
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
    if not words:
        return dict(stored)
    fixed = {entry.name for entry in fields(part("data", OWN))} - set(MAY_DIFFER)  # type: ignore[arg-type]
    values = named_own(deepcopy(dict(stored)))
    for word in words:
        group, _, key = word.partition("=")[0].partition(".")
        if group != "data" or not key or "=" not in word:
            raise ConfigError([f"{word}: only what reads the data can be said here, such as data.root=FOLDER"])
        if key.partition(".")[0] in fixed:
            how = "which images validation has, and how they look, is as in training"
            raise ConfigError([f"{word}: {how}; say where they lie alone"])
        try:
            override = OverridesParser.create().parse_override(word)
            if override.is_sweep_override() or override.is_delete():
                raise HydraException("several values, or none")
        except (HydraException, TypeError) as error:
            raise ConfigError([f"{word}: cannot be read; quote the value twice, 'data.{key}=\"...\"'"]) from error
        *path, last = key.split(".")
        inner = values["data"]
        for step in path:
            if not isinstance(inner.get(step), dict):
                inner[step] = {}
            inner = inner[step]
        inner[last] = override.value()
    return values


def _unaugmented(config: Config) -> Config:
    """Without what only training has, some of which may be code of somebody's own."""
    plain = replace(config.data, transform=None, augment="none", random_erasing=0.0, sampler="shuffled")
    return replace(config, data=plain, loss=NoLoss(distance=config.loss.measure()))
