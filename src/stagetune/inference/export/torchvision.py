"""A trained ResNet as torchvision's own: a state dict that its constructor takes strictly."""

import io
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from stagetune.artifacts import write_whole
from stagetune.config.schema import Config
from stagetune.errors import ExportError
from stagetune.inference.runtimes import Images, Outputs
from stagetune.models.heads import EmbeddingHead
from stagetune.models.layers import Layers
from stagetune.models.tensor_files import read_tensors
from stagetune.tasks.staged_task import StagedTask


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
    elif task.metadata.pruning:
        why = "channels of it are left out (model.prune.ratio)"
    elif getattr(model, "stem", "imagenet") != "imagenet":
        why = f"model.stem={getattr(model, 'stem', '')} has another first layer"
    elif backbone.pooled != ("layer4",):
        why = f"its features are those of several layers (model.pooled={list(backbone.pooled)})"
    elif not isinstance(task.head, nn.Linear | EmbeddingHead):
        why = "its head has a hidden layer (task.head=hidden)"
    if why:
        raise ExportError(
            f"--to torchvision: {why}, which no ResNet of torchvision has; use --to onnx or safetensors"
        )
    state = {name: value.detach().contiguous() for name, value in backbone.state_dict().items()}
    expected = _of_torchvision(model.title())
    if other := [name for name, shape in expected.items() if name not in state or state[name].shape != shape]:
        raise ExportError(
            f"--to torchvision: {other[0]} is not as in torchvision's {model.title()}, {len(other)} tensors in all; "
            "use --to onnx or safetensors"
        )
    head = {name: value.detach().contiguous() for name, value in task.head.state_dict().items()}
    if isinstance(task.head, EmbeddingHead):
        return state, head
    return {**state, **{f"fc.{name}": value for name, value in head.items()}}, {}


def write_torchvision(file: Path, states: tuple[Mapping[str, Tensor], Mapping[str, Tensor]]) -> None:
    """Write both state dicts as tensors alone, the second beside the first where there is one.

    Args:
        file: safetensors where it ends in that, else as torch.save writes it.
        states: of `torchvision_states`.
    """
    for place, state in zip((file, head_file(file)), states, strict=True):
        if not state:
            continue
        content = io.BytesIO()  # torch's own writer hides why a disk takes no more
        if file.suffix == ".safetensors":
            content.write(safetensors.torch.save(dict(state)))
        else:
            torch.save(dict(state), content)
        with write_whole(place) as stream:
            stream.write(content.getbuffer())


def head_file(file: Path) -> Path:
    """Where the head of a siamese run lies: beside the backbone."""
    return file.with_name(f"{file.stem}.head{file.suffix}")


class Torchvision:
    """Outputs by a network of torchvision that has loaded what was written, as a person would load it; a `Runtime`.

    Args:
        file: of `write_torchvision`.
        arch: torchvision's name of the network.
        task: that it was written of.
        classes: how many.
    """

    name = "torchvision"

    def __init__(self, file: Path, arch: str, task: StagedTask, classes: int) -> None:
        self.about: dict[str, Any] = {}
        self._output, self._normal = "scores", task.backbone.normal
        self._network = get_model(arch, weights=None, num_classes=classes)
        self._head: nn.Module = nn.Identity()
        if isinstance(task.head, EmbeddingHead):
            self._output, self._network.fc, self._head = "embeddings", nn.Identity(), deepcopy(task.head)
            self._head.load_state_dict(read_tensors(head_file(file)))
        self._network.load_state_dict(read_tensors(file))
        self._network.eval()

    def __call__(self, images: Images) -> Outputs:
        mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in self._normal)
        with torch.inference_mode():
            features = self._network((torch.from_numpy(images).float() / 255 - mean) / std)
            return {self._output: self._head(features).numpy()}


def _of_torchvision(arch: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = get_model(arch, weights=None)
    return {name: value.shape for name, value in network.state_dict().items() if not name.startswith("fc.")}
