"""The model of a checkpoint, built again from what the checkpoint says of itself."""

import os
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stagetune.artifacts import CheckpointMetadata, RunDir
from stagetune.config.parts import wrappers_of
from stagetune.config.schema import Config
from stagetune.config.settings import NoLoss
from stagetune.config.validate import read_config
from stagetune.data.image_files import read_image, rgb
from stagetune.data.transforms import prepare
from stagetune.errors import ConfigError, DataError, WeightsError
from stagetune.run.build import build_task
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask


class Transform:
    """One image as the network was trained on it, without augmentation.

    Args:
        config: of the run.

    >>> from stagetune import compose
    >>> Transform(compose(["data.image_size=32"]))(np.zeros((40, 60, 3), np.uint8)).shape
    torch.Size([3, 32, 32])
    """

    def __init__(self, config: Config) -> None:
        wanted = config.input()
        self.data, self.image_size, self.interpolation = config.data, wanted.size, wanted.interpolation
        self.resize = config.data.resize

    def __call__(self, image: str | os.PathLike[str] | Image.Image | np.ndarray[Any, Any] | Tensor) -> Tensor:
        """Prepare one image.

        Args:
            image: a path, a PIL image, a uint8 array [height, width, 3] or [height, width], or a uint8 tensor
                [3, height, width].

        Returns:
            uint8 [3, image_size, image_size], RGB; the network normalises it itself.

        Raises:
            DataError: for anything else.
        """
        pixels = _pixels(image)
        for wrapper in wrappers_of(self.data):
            pixels = wrapper.prepare(self.data, pixels)
        return prepare(pixels, self.image_size, self.interpolation, self.resize)


class TrainedModel(nn.Module):
    """The network of a checkpoint in eval mode, with what is needed to use it.

    Attributes:
        transform: makes of an image what `forward` takes one of.
        classes: their names, in the order of a classifier's scores.
        threshold: of a siamese run, the distance up to which two images count as the same; None for a classifier.
        config: the configuration that it was trained by.
        metadata: all that the checkpoint says of itself; its `calibration` has the temperature of a classifier and
            the probability below which an answer is unknown, or all of a siamese run's threshold.
    """

    def __init__(self, task: StagedTask, config: Config, metadata: CheckpointMetadata) -> None:
        super().__init__()
        self.task, self.config, self.metadata = task, config, metadata
        self.transform = Transform(config)
        self.classes = metadata.classes
        self.threshold = task.threshold.item() if isinstance(task, SiameseTask) else None
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Scores, or embeddings.

        Args:
            images: uint8 [n, 3, image_size, image_size], as `transform` gives them.

        Returns:
            Of a classifier the scores before softmax [n, classes], of a siamese run the embeddings [n, dimensions].
        """
        outputs: Tensor = self.task(images)
        return outputs


def load(path: str | os.PathLike[str]) -> TrainedModel:
    """The model that a run has trained.

    Args:
        path: a checkpoint (checkpoints/best.ckpt of a run), or the directory of a run, whose best one is taken.

    Returns:
        The network in eval mode on the CPU, with its transform, classes and threshold.

    Raises:
        WeightsError: for a file that is no checkpoint of this project, or of another version that cannot be read.

    >>> model = load("outputs/mine")
    >>> image = model.transform(np.zeros((40, 60, 3), np.uint8))
    >>> model(image[None]).shape
    torch.Size([1, 10])
    """
    return TrainedModel(*load_task(path))


def load_task(path: str | os.PathLike[str]) -> tuple[StagedTask, Config, CheckpointMetadata]:
    """The task in eval mode, its configuration and its metadata; raises `WeightsError` as `load` does."""
    given = Path(path).expanduser()
    file = RunDir(given).best if given.is_dir() else given
    if not file.is_file():
        raise WeightsError(f"{file}: does not exist (looked in {Path.cwd()}); give a run's checkpoints/best.ckpt")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign or torn file fails in one of many ways inside torch.load
        why = str(error) or "it ends too early"
        if isinstance(error, UnpicklingError):  # torch's words for it end with the advice to trust the file
            why = "not plain data, or damaged"
        raise WeightsError(
            f"{file}: is not a checkpoint of this project ({why}); give a run's checkpoints/best.ckpt"
        ) from error
    try:
        metadata = CheckpointMetadata.of(content if isinstance(content, dict) else {})
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    try:
        config = read_config(metadata.config)
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced by those of the file
            backbone = config.model.build(config.input().size)
            loss = NoLoss(distance=config.loss.measure())  # it may be of somebody's own, and not at hand
            task = build_task(replace(config, loss=loss), backbone, len(metadata.classes), metadata)
        state = content["state_dict"]
        task.load_state_dict({name: value for name, value in state.items() if not name.startswith("loss.")})
    except Exception as error:  # whatever does not fit, of an edited file or one of another version
        problems = error.problems if isinstance(error, ConfigError) else [f"{type(error).__name__}: {error}"]
        raise WeightsError(
            f"{file}: what it says of itself does not fit this version of the project: {'; '.join(problems)[:300]}"
        ) from error
    return task.eval(), config, metadata


def _pixels(image: Any) -> Tensor:
    """The image as uint8 [3, height, width]."""
    if isinstance(image, str | os.PathLike):
        try:
            return read_image(Path(image).expanduser())
        except Exception as error:  # Pillow's decoders raise many types for a damaged file
            raise DataError(f"{image}: cannot be read as an image ({error})") from error
    if isinstance(image, Image.Image):
        return rgb(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        gray_or_colour = image if image.ndim == 2 or image.shape[-1:] == (3,) else None
        if gray_or_colour is not None and gray_or_colour.ndim in (2, 3) and image.size:
            return rgb(Image.fromarray(gray_or_colour))
    if (
        isinstance(image, Tensor)
        and image.dtype == torch.uint8
        and image.ndim == 3
        and image.shape[0] == 3
        and image.numel()
    ):
        return image
    shape = f" of shape {list(image.shape)} and {image.dtype}" if hasattr(image, "shape") else ""
    raise DataError(
        f"{type(image).__name__}{shape}: is no image; give a path, a PIL image, a uint8 array [height, width, 3] "
        "or a uint8 tensor [3, height, width]"
    )
