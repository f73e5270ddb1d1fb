"""A trained ResNet as torchvision's own: a state dict that its constructor takes strictly."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from stagetune.artifacts import write_whole
from stagetune.config.schema import Config
from stagetune.errors import ExportError
from stagetune.models.heads import EmbeddingHead
from stagetune.models.layers import Layers
from stagetune.tasks.staged_task import StagedTask

SUFFIXES = (".pt", ".pth", ".safetensors")


def torchvision_states(task: StagedTask, config: Config) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `torchvision.models` takes, and what it has no place for.

    Args:
        task: the trained one.
        config: that it was built by.

    Returns:
        A state dict with the head as `fc`, for `resnet50(num_classes=k)`, and an empty one; of a siamese run one
        without, for `resnet50()` with `fc = Identity()`, and the head's.

    Raises:
        ExportError: for a network that torchvision does not have.
    """
    model, backbone = config.model, task.backbone
    why = ""
    if model.name != "resnet" or not isinstance(backbone, Layers):
        why = f"the backbone is {model.title()}"
    elif getattr(model, "stem", "imagenet") != "imagenet":
        why = f"model.stem={getattr(model, 'stem', '')} has another first layer"
    elif backbone.pooled != ("layer4",):
        why = f"its features are those of several layers (model.pooled={list(backbone.pooled)})"
    elif not isinstance(task.head, torch.nn.Linear | EmbeddingHead):
        why = "its head has a hidden layer (task.head=hidden)"
    if why:
        raise ExportError(f"--to torchvision: {why}, which no ResNet of torchvision has; use --to onnx or safetensors")
    state = {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}
    expected = _of_torchvision(model.title())
    if other := [name for name, shape in expected.items() if name not in state or state[name].shape != shape]:
        raise ExportError(
            f"--to torchvision: {other[0]} is not as in torchvision's {model.title()}, {len(other)} tensors in all; "
            "a pruned network goes into --to onnx or safetensors"
        )
    head = {name: value.detach().contiguous() for name, value in task.head.state_dict().items()}
    if isinstance(task.head, EmbeddingHead):
        return state, head
    return {**state, **{f"fc.{name}": value for name, value in head.items()}}, {}


def write_torchvision(file: Path, states: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]) -> list[Path]:
    """Write both state dicts as tensors alone, the second beside the first where there is one.

    Args:
        file: ends in .pt, .pth or .safetensors, which decides the format.
        states: of `torchvision_states`.

    Returns:
        The files.

    Raises:
        ExportError: for another ending.
    """
    if file.suffix not in SUFFIXES:
        raise ExportError(f"{file}: a state dict ends in {', '.join(SUFFIXES)}; name it so with -o")
    places = [file, head_file(file)] if states[1] else [file]
    for place, state in zip(places, states, strict=False):
        with write_whole(place) as stream:
            if file.suffix == ".safetensors":
                stream.write(safetensors.torch.save(dict(state)))
            else:
                torch.save(dict(state), stream)
    return places


def head_file(file: Path) -> Path:
    """Where the head of a siamese run lies: beside the backbone."""
    return file.with_name(f"{file.stem}.head{file.suffix}")


def _of_torchvision(arch: str) -> dict[str, torch.Size]:
    from torchvision.models import get_model

    with torch.device("meta"):
        network = get_model(arch, weights=None)
    return {name: value.shape for name, value in network.state_dict().items() if not name.startswith("fc.")}
