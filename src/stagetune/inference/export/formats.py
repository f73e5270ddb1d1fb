"""The formats that a model is exported to: what writes each, and what computes the file again."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from stagetune.artifacts import METADATA, CheckpointMetadata
from stagetune.config.schema import Config
from stagetune.inference.description import Description
from stagetune.inference.export.onnx import onnx_model, write_onnx
from stagetune.inference.export.program import exported, write_program
from stagetune.inference.export.quantize import int8_model
from stagetune.inference.export.safetensors import NETWORK, network_text, write_safetensors
from stagetune.inference.export.torchvision import Torchvision, torchvision_states, write_torchvision
from stagetune.inference.load import load
from stagetune.inference.network import Network
from stagetune.inference.runtimes import Runtime
from stagetune.tasks.staged_task import StagedTask

SUFFIXES = {
    "onnx": (".onnx",), "torch-export": (".pt2",), "torchvision": (".pt", ".pth", ".safetensors"),
    "safetensors": (".safetensors",),
}  # fmt: skip

Write = Callable[[Path, Description], None]  # a file that says this of itself, where the format can


@dataclass(frozen=True)
class Source:
    """What is exported: the task of a checkpoint, on the CPU, and what it is to its user."""

    task: StagedTask
    config: Config
    metadata: CheckpointMetadata
    network: Network
    description: Description


def writer(to: str, source: Source, int8_images: Iterable[npt.NDArray[np.uint8]] | None = None) -> Write:
    """What writes a format; what takes long is done here, so that it can be written twice.

    Args:
        to: one of `SUFFIXES`.
        source: the model.
        int8_images: batches of training images, on which the ranges of 8-bit integers are measured; None for fp32.

    Raises:
        ExportError: for a network that the format cannot hold.
    """
    size = source.description.preprocessing.image_size
    if to == "onnx":
        model = onnx_model(source.network, size)
        model = model if int8_images is None else int8_model(model, int8_images)
        return lambda file, said: write_onnx(model, file, {METADATA: said.to_json()})
    if to == "torch-export":
        program = exported(source.network, size)
        return lambda file, said: write_program(program, file, {METADATA: said.to_json()})
    if to == "torchvision":
        states = torchvision_states(source.task, source.config)
        return lambda file, _: write_torchvision(file, states)
    network = network_text(source.config, source.metadata, source.description)
    state = {name: value for name, value in source.task.state_dict().items() if not name.startswith("loss.")}

    def write(file: Path, said: Description) -> None:
        if "threshold" in state:  # of a siamese run
            state["threshold"] = torch.tensor((said.calibration or {})["threshold"], dtype=torch.float64)
        write_safetensors(file, state, {METADATA: said.to_json(), NETWORK: network})

    return write


def computed(to: str, file: Path, source: Source) -> Runtime:
    """What computes a file that was written, as its user would have it computed."""
    if to != "torchvision":
        return load(file, trust=True, device="cpu").runtime
    classes = len(source.description.classes)
    return Torchvision(file, source.config.model.title(), source.task, classes)
