"""Embeddings of files by a checkpoint of a siamese run."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from stagetune.data.transforms import prepare
from stagetune.errors import WeightsError
from stagetune.evaluation.oneshot_runs import Distances, on_white
from stagetune.evaluation.roc import FloatArray
from stagetune.models.distances import measure
from stagetune.run.restore import load_task
from stagetune.tasks.siamese import SiameseTask

BATCH = 64


def distances_of(checkpoint: Path) -> Distances:
    """The distances that a checkpoint gives drawings. Raises `WeightsError` if it is not of a siamese run."""
    task, config, _ = load_task(checkpoint)
    if not isinstance(task, SiameseTask):
        raise WeightsError(f"{checkpoint}: is of a {config.task.name}; distances need a run with task=siamese")

    def between(test: Sequence[Path], training: Sequence[Path]) -> FloatArray:
        asked, shown = (_embed(task, paths, config.data.image_size) for paths in (test, training))
        found: FloatArray = measure(asked[:, None] - shown[None, :], task.distance).double().numpy()
        return found

    return between


def _embed(task: SiameseTask, paths: Sequence[Path], size: int) -> Tensor:
    images = torch.stack([prepare(torch.from_numpy(on_white(path)).expand(3, -1, -1), size) for path in paths])
    with torch.inference_mode():
        return torch.cat([task(images[start : start + BATCH]) for start in range(0, len(images), BATCH)])
