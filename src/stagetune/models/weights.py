"""Where a backbone's weights come from: torchvision's ImageNet weights, a file, or nothing."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import urlopen

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from stagetune.artifacts import METADATA, CheckpointMetadata
from stagetune.errors import WeightsError

CONNECT_SECONDS = 3.0
_CLASSIFIER = ("fc.", "classifier.")  # torchvision's own head, which a backbone does not have


@dataclass(frozen=True)
class Weights:
    """A state dict with what has to be known of it."""

    used: str  # what they are, in words for the screen and result.json
    state: Mapping[str, Tensor] | None  # None: random initialisation
    trained_on: Mapping[str, list[str]] = field(default_factory=dict)  # origin of images -> classes seen in training
    images: frozenset[str] = frozenset()  # short content keys of the images seen in training


def random_weights() -> Weights:
    return Weights("random", None)


def imagenet_weights(arch: str) -> Weights | None:
    """torchvision's newest ImageNet weights, from torch hub's cache or by download; None if neither is at hand.

    Raises `WeightsError` if a cached file is damaged.
    """
    weights = _imagenet(arch)
    if not imagenet_file(arch).is_file() and not _reachable(weights.url):
        return None
    try:
        with _stall_limit():
            state = weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, TimeoutError, ConnectionError):
        return None
    except Exception as error:  # a torn file fails in one of many ways inside torch.load
        raise WeightsError(f"{imagenet_file(arch)} cannot be read ({error}); delete it and try again") from error
    return Weights(f"imagenet ({type(weights).__name__}.{weights.name})", state)


def imagenet_file(arch: str) -> Path:
    """Where torch hub keeps (or would keep) the ImageNet weights of `arch`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(_imagenet(arch).url).path).name


def file_weights(path: str | Path) -> Weights:
    """A torchvision-named state dict (.pt, .pth, .safetensors) or a checkpoint of this project.

    Raises `WeightsError` if the file cannot be read as either.
    """
    try:
        if str(path).endswith(".safetensors"):
            return Weights(str(path), load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(
            f"model.weights={path}: cannot be read ({error}); give a torchvision-named state dict "
            "(.pt or .safetensors) or a checkpoint of this project"
        ) from error
    is_ours = isinstance(content, dict) and METADATA in content
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"model.weights={path}: holds no state dict; expected names such as layer1.0.conv1.weight")
    prefix = "backbone."
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    metadata = CheckpointMetadata.of(content) if is_ours else CheckpointMetadata()
    return Weights(str(path), own or state, metadata.trained_on, frozenset(metadata.images))


def load_into(backbone: nn.Module, weights: Weights) -> Weights:
    """Copy the weights into the backbone; what was used, with anything that stayed random said in it.

    Only ImageNet's first convolution may differ in shape (`stem=small_images`); it then stays random. Raises
    `WeightsError` for any other difference.
    """
    if weights.state is None:
        return weights
    state = {name: value for name, value in weights.state.items() if not name.startswith(_CLASSIFIER)}
    own = backbone.state_dict()
    # old files lack BatchNorm's step counters, which nothing depends on
    state = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")} | state
    fresh = []
    if weights.used.startswith("imagenet") and _another_stem(state, own):
        state["conv1.weight"] = own["conv1.weight"]
        fresh.append("conv1.weight")
    missing = sorted(set(own) - set(state))
    unknown = sorted(set(state) - set(own))
    shapes = [
        f"{name} is {list(state[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unknown or shapes:
        parts = [*shapes[:2]]
        parts += [f"{len(missing)} missing such as {missing[0]}"] if missing else []
        parts += [f"{len(unknown)} unknown such as {unknown[0]}"] if unknown else []
        raise WeightsError(
            f"weights {weights.used} do not fit this backbone: {'; '.join(parts)}; "
            "choose the model.arch and model.stem that they were saved from"
        )
    backbone.load_state_dict(state)
    if not fresh:
        return weights
    return replace(weights, used=f"{weights.used}, but {', '.join(fresh)} random for this stem")


def _another_stem(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    return "conv1.weight" in own and state["conv1.weight"].shape != own["conv1.weight"].shape


def _imagenet(arch: str) -> WeightsEnum:
    newest: WeightsEnum = get_model_weights(arch).DEFAULT
    return newest


@contextmanager
def _stall_limit() -> Iterator[None]:
    """A download that stands still for longer than it may take to connect fails instead of hanging."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reachable(url: str) -> bool:
    try:
        with urlopen(url, timeout=CONNECT_SECONDS):
            return True
    except (URLError, OSError):
        return False
