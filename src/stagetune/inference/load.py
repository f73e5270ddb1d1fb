"""`stagetune.load`: the model of a checkpoint, or of a file that was exported from one."""

import os
from dataclasses import replace

from stagetune.errors import WeightsError
from stagetune.inference.checkpoint import load_task
from stagetune.inference.description import description_of
from stagetune.inference.model import BATCH, TrainedModel
from stagetune.inference.network import Network, weights_key
from stagetune.inference.runtimes.pytorch import PyTorch
from stagetune.run.precision import device_type
from stagetune.tasks.siamese import SiameseTask

PRECISIONS = ("fp32", "bf16")


def load(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    runtime: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = BATCH,
) -> TrainedModel:
    """The model that a run has trained.

    Args:
        path: a checkpoint (checkpoints/best.ckpt of a run), the directory of a run, whose best one is taken, or a
            file that `stagetune export` has written.
        trust: whether code that a checkpoint names and does not hold may be imported and run: a network of one's own.
        runtime: pytorch for a checkpoint.
        device: as torch calls it; auto is a GPU where there is one.
        precision: fp32, or bf16.
        batch_size: images that are computed together.

    Returns:
        The model in eval mode, with its transform, classes, threshold, calibration and provenance.

    Raises:
        WeightsError: for a file that is no model of this project, or of another version that cannot be read, and
            without `trust` for one that names code from elsewhere.

    >>> model = load("outputs/mine")
    >>> [prediction] = model.predict(np.zeros((40, 60, 3), np.uint8))
    >>> prediction.label in model.classes
    True
    """
    if precision not in PRECISIONS:
        raise WeightsError(f"precision={precision}: a model is used in {' or '.join(PRECISIONS)}")
    if runtime not in (None, "pytorch"):
        raise WeightsError(f"runtime={runtime}: computes exported files; a checkpoint is computed by pytorch")
    return load_checkpoint(path, trust=trust, device=device, precision=precision, batch_size=batch_size)


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = BATCH,
) -> TrainedModel:
    """`load` for a checkpoint or a run."""
    task, config, metadata = load_task(path, trust=trust)
    distance = task.distance if isinstance(task, SiameseTask) else None
    described = description_of(config, metadata, distance)
    network = Network(task.backbone, task.head, described.outputs)
    what = (described.preprocessing.to_json(), distance or "", config.model.title(), str(task.backbone.normal))
    described.provenance["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    key = weights_key(network, *what, task.backbone.extra_repr())
    try:
        computes = PyTorch(network, device=device_type("auto") if device == "auto" else device, precision=precision)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"device={device}: cannot be used here ({reason}); leave it out, or use cpu") from error
    return TrainedModel(computes, replace(described, key=key), batch_size=batch_size)
