"""Distances of drawings by a checkpoint of a siamese run, for the official one-shot runs."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import affine

from stagetune.errors import WeightsError
from stagetune.evaluation.oneshot_runs import Distances, on_white
from stagetune.evaluation.roc import FloatArray
from stagetune.inference.checkpoint import load_task
from stagetune.inference.description import Preprocessing
from stagetune.inference.transform import Transform
from stagetune.models.distances import measure
from stagetune.tasks.siamese import SiameseTask

BATCH = 64
VIEWS = (  # share of the side to the right and down, degrees, scale
    (0.0, 0.0, 0.0, 1.0),
    (0.05, 0.0, 0.0, 1.0), (-0.05, 0.0, 0.0, 1.0), (0.0, 0.05, 0.0, 1.0), (0.0, -0.05, 0.0, 1.0),
    (0.0, 0.0, 8.0, 1.0), (0.0, 0.0, -8.0, 1.0), (0.0, 0.0, 0.0, 1.1), (0.0, 0.0, 0.0, 0.9),
)  # fmt: skip


def distances_of(checkpoint: Path, *, views: int = 1, trust: bool = False) -> Distances:
    """The distances that a checkpoint gives drawings, each embedded as the mean of the first `views` of `VIEWS`.

    Raises `WeightsError` if it is not of a siamese run.
    """
    task, config, metadata = load_task(checkpoint, trust=trust)
    if not isinstance(task, SiameseTask):
        raise WeightsError(f"{checkpoint}: is of a {config.task.name}; distances need a run with task=siamese")

    transform = Transform(Preprocessing.of(config, metadata.range))
    known: dict[Path, Tensor] = {}  # runs share drawings

    def between(test: Sequence[Path], training: Sequence[Path]) -> FloatArray:
        fresh = [path for path in dict.fromkeys([*test, *training]) if path not in known]
        if fresh:
            known.update(zip(fresh, _embed(task, fresh, transform, views), strict=True))
        asked, shown = (torch.stack([known[path] for path in paths]) for paths in (test, training))
        found: FloatArray = measure(asked[:, None] - shown[None, :], task.distance).double().numpy()
        return found

    return between


def _embed(task: SiameseTask, paths: Sequence[Path], transform: Transform, views: int) -> Tensor:
    """Embeddings [n, d] of length 1, or, of a weighted distance, as long as the head makes them."""
    drawn = [torch.from_numpy(on_white(path)).expand(3, -1, -1) for path in paths]
    images = torch.stack([transform(image) for image in drawn])
    with torch.inference_mode():
        seen = [
            torch.cat([task(_turned(images[start : start + BATCH], *view)) for start in range(0, len(images), BATCH)])
            for view in VIEWS[:views]
        ]
    mean: Tensor = torch.stack(seen).mean(dim=0)
    return mean if views == 1 or task.distance == "weighted_l1" else F.normalize(mean, dim=1)


def _turned(images: Tensor, shift_x: float, shift_y: float, angle: float, scale: float) -> Tensor:
    """Moved by shares of the side, turned by degrees and scaled on white paper; uint8 as it came."""
    if (shift_x, shift_y, angle, scale) == VIEWS[0]:
        return images
    side = images.shape[-1]
    ink = 255.0 - images.float()  # what turns in is then 0, and no seam stays
    moved: Tensor = affine(ink, angle, [0, 0], scale, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
    moved = affine(moved, 0.0, [round(shift_x * side), round(shift_y * side)], 1.0, [0.0, 0.0])
    return (255.0 - moved).round().clamp(0, 255).to(torch.uint8)
