"""`stagetune.load`: the model of a checkpoint, or of a file that was exported from one."""

import os
from dataclasses import replace
from pathlib import Path

from stagetune.artifacts import CheckpointMetadata
from stagetune.config.schema import Config
from stagetune.errors import WeightsError
from stagetune.inference.checkpoint import load_task, task_of
from stagetune.inference.description import Description, description_of
from stagetune.inference.export.safetensors import read_safetensors
from stagetune.inference.model import BATCH, TrainedModel
from stagetune.inference.network import Network, model_key
from stagetune.inference.runtimes import Runtime
from stagetune.inference.runtimes.pytorch import PyTorch
from stagetune.run.precision import device_type
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask

PRECISIONS = ("fp32", "bf16")
SAFETENSORS = ".safetensors"
RUNTIMES = {".onnx": ("onnxruntime", "openvino"), ".pt2": ("torch-export",), SAFETENSORS: ("pytorch",)}
ON_CPU = RUNTIMES[".onnx"]


def load(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    runtime: str | None = None,
    device: str = "auto",
    precision: str = "fp32",
    batch_size: int = BATCH,
    threads: int | None = None,
) -> TrainedModel:
    """The model that a run has trained.

    Args:
        path: a checkpoint (checkpoints/best.ckpt of a run), the directory of a run, whose best one is taken, or a
            file that `stagetune export` has written.
        trust: whether code that a file brings or names may run: a network of one's own, a program of torch.export.
        runtime: of an .onnx file onnxruntime or openvino; by default the one that a file needs.
        device: as torch calls it; auto is a GPU where there is one. An .onnx file is computed on the CPU.
        precision: fp32, or bf16.
        batch_size: images that are computed together.
        threads: of an .onnx file; None for as many as there are cores.

    Returns:
        The model in eval mode, with its transform, classes, threshold, calibration and provenance.

    Raises:
        WeightsError: for a file that is no model of this project, or of another version that cannot be read, and
            without `trust` for one that could run code from elsewhere.
        MissingError: where the library that computes it is not installed.

    >>> model = load("outputs/mine")
    >>> model.classes[:3], model.transform.preprocessing.image_size
    (['0', '1', '2'], 16)
    """
    if precision not in PRECISIONS:
        raise WeightsError(f"precision={precision}: a model is used in {' or '.join(PRECISIONS)}")
    for name, value in (("batch_size", batch_size), ("threads", threads)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise WeightsError(f"{name}={value}: give a whole number, 1 or more")
    file = Path(path).expanduser()
    takes = ("pytorch",) if file.is_dir() else RUNTIMES.get(file.suffix.lower(), ("pytorch",))
    if runtime not in (None, *takes):
        raise WeightsError(f"runtime={runtime}: does not compute {file.name}; use {' or '.join(takes)}")
    if not file.exists():
        raise WeightsError(
            f"{file}: does not exist (looked in {Path.cwd()}); give a run, or its checkpoints/best.ckpt"
        )
    computes, described = _computed(
        file, runtime or takes[0], trust=trust, device=device, precision=precision, threads=threads
    )
    return TrainedModel(computes, described, batch_size=batch_size)


def used(task: StagedTask, config: Config, metadata: CheckpointMetadata) -> tuple[Network, Description]:
    """The network of a checkpoint's task, and what it is to its user."""
    distance = task.distance if isinstance(task, SiameseTask) else None
    described = description_of(config, metadata, distance)
    network = Network(task.backbone, task.head, described.outputs)
    what = (described.preprocessing.key(), distance or "", config.model.title(), str(task.backbone.normal))
    described.provenance["parameters"] = sum(parameter.numel() for parameter in network.parameters())
    return network, replace(described, key=model_key(network, *what, task.backbone.extra_repr()))


def _network(file: Path, *, trust: bool) -> tuple[Network, Description]:
    """That of a checkpoint, of a run, or of a .safetensors file that says what it is."""
    if file.is_dir() or file.suffix.lower() != SAFETENSORS:
        return used(*load_task(file, trust=trust))
    described, content = read_safetensors(file)
    network, _ = used(*task_of(content, file, trust=trust))
    return network, described


def _computed(
    file: Path, runtime: str, *, trust: bool, device: str, precision: str, threads: int | None
) -> tuple[Runtime, Description]:
    """What computes a file, and what the file says of its model."""
    found = device_type("auto") if device == "auto" else device
    if runtime in ON_CPU:
        if device not in ("auto", "cpu"):
            raise WeightsError(f"device={device}: {runtime} computes on the CPU here; leave it out")
        if runtime == "openvino":
            from stagetune.inference.runtimes.openvino import OpenVino

            vino = OpenVino(file, threads=threads, precision=precision)
            return vino, vino.description
        if precision != "fp32":
            raise WeightsError(f"precision={precision}: onnxruntime computes as the file says; use runtime=openvino")
        from stagetune.inference.runtimes.onnxruntime import OnnxRuntime

        session = OnnxRuntime(file, threads=threads)
        return session, session.description
    if threads is not None:
        raise WeightsError("threads: PyTorch has one number for the whole process; use torch.set_num_threads")
    try:
        if runtime == "torch-export":
            if precision != "fp32":
                raise WeightsError(
                    f"precision={precision}: a program of torch.export computes as it was written, in fp32"
                )
            from stagetune.inference.runtimes.torch_export import TorchExport

            program = TorchExport(file, device=found, trust=trust)
            return program, program.description
        network, described = _network(file, trust=trust)
        return PyTorch(network, device=found, precision=precision), described
    except (RuntimeError, AssertionError, TypeError) as error:  # torch's, of a device that is none, or is not here
        reason = str(error).partition("\n")[0]
        raise WeightsError(f"device={device}: cannot be used here ({reason}); leave it out, or use cpu") from error
