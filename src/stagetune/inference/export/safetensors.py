"""Weights in a .safetensors file whose header says of which network they are."""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from stagetune.artifacts import METADATA, CheckpointMetadata, write_whole
from stagetune.config.schema import Config
from stagetune.errors import ExportError, WeightsError
from stagetune.inference.description import Description
from stagetune.inference.runtimes.files import REMEDY

SCHEDULE = {
    "leave_frozen": True,
    "stages": [{"name": "head", "open": ["head"], "epochs": 1, "lr": 1e-3}],
}  # no configuration lacks one
NETWORK = "stagetune.network"  # the key under which stands what the network is built by
CHECKSUM = "stagetune.checksum"  # that of the tensors: the format has none
LARGEST_HEADER = 100_000_000  # bytes, as in the format's own library


def network_text(config: Config, metadata: CheckpointMetadata, described: Description) -> str:
    """What the network of a run is built by, as JSON without any path: its model, its task and its images.

    Raises:
        ExportError: for a network of somebody's own that is built with a path.
    """
    model = {**asdict(config.model), "weights": "random"}
    for key, value in _texts("model", model):
        if Path(value).expanduser().is_absolute():
            raise ExportError(f"{key}={value}: the network is built by a path of this machine; use --to onnx")
    images = described.preprocessing
    data: dict[str, Any] = {"image_size": images.image_size, "resize": images.resize}
    values = {"model": model, "task": asdict(config.task), "data": data, "schedule": SCHEDULE}
    if described.distance:
        values["loss"] = {"name": "contrastive", "distance": described.distance}
    stored = replace(metadata, config=values, weights="", trained_on={}, images=[], data={})
    return json.dumps(asdict(stored))


def write_safetensors(file: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a state dict, with text by key in the header, and a checksum.

    Tensors that share memory are written one by one, each in the order of its indices, whatever its strides were.
    """
    tensors = {name: value.detach().clone().contiguous() for name, value in state.items()}
    with write_whole(file) as stream:
        stream.write(safetensors.torch.save(tensors, {**metadata, CHECKSUM: _checksum(tensors)}))


def read_safetensors(file: Path) -> tuple[Description, dict[str, Any]]:
    """A file as a model of this project.

    Returns:
        What it says of the model, and a checkpoint from which the network is built again.

    Raises:
        WeightsError: for a damaged file, and for one that is none of ours.
    """
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > LARGEST_HEADER:
                raise ValueError("its header is too long")
            said: dict[str, str] = json.loads(stream.read(length)).get("__metadata__", {})
        built_by = json.loads(said.get(NETWORK, "null"))
        state = safetensors.torch.load_file(file)
        if said.get(CHECKSUM) not in (None, _checksum(state)):  # files of earlier versions have none
            raise ValueError("its checksum is another")
    except Exception as error:  # the library has an error of its own, and a header may be anything
        raise WeightsError(f"{file}: is no .safetensors file, or damaged ({error}); {REMEDY}") from error
    if METADATA not in said or built_by is None:
        raise WeightsError(f"{file}: holds weights alone; say them as model.weights, or {REMEDY}")
    try:
        return Description.from_json(said[METADATA]), {METADATA: built_by, "state_dict": state}
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _texts(key: str, value: Any) -> list[tuple[str, str]]:
    """Every text within plain values, with its key."""
    if isinstance(value, Mapping):
        return [found for name, one in value.items() for found in _texts(f"{key}.{name}", one)]
    if isinstance(value, list | tuple):
        return [found for i, one in enumerate(value) for found in _texts(f"{key}.{i}", one)]
    return [(key, value)] if isinstance(value, str) else []
