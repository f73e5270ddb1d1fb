"""Somebody's own network as a backbone with named blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagetune.errors import ConfigError, did_you_mean
from stagetune.models.backbone import IMAGENET_MEAN, IMAGENET_STD


class OwnBackbone(nn.Module):
    """Images to features [n, out_features] by a network of one's own, whose parameters keep their names.

    The network takes normalised images [n, 3, h, w] and gives features [n, f], or maps [n, f, h, w], which are
    pooled. It runs as a whole: only a backbone of our own can begin at a later block.
    """

    input_mean: Tensor
    input_std: Tensor
    normal = (IMAGENET_MEAN, IMAGENET_STD)

    def __init__(self, network: nn.Module, blocks: Mapping[str, Sequence[str]], image_size: int) -> None:
        super().__init__()
        # the network's own registers, so that what is called conv1 there is called conv1 here
        self._parameters, self._modules, self._buffers = network._parameters, network._modules, network._buffers
        self._non_persistent_buffers_set = network._non_persistent_buffers_set
        self._network = [network]  # in a list, so that it is not registered again
        # a network may have a layer of that name, which stays registered
        object.__setattr__(self, "blocks", {block: tuple(names) for block, names in blocks.items()})
        self.starts = (0, len(blocks))
        self.register_buffer("input_mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("input_std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.out_features = self._try_out(image_size)

    def forward(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Images to features; `start` after the last block takes features, no other block can be begun at."""
        if start not in self.starts:
            raise ValueError("a network of one's own cannot begin at a later block")
        if start:
            return inputs  # features already
        features: Tensor = self._network[0]((inputs.float() / 255 - self.input_mean) / self.input_std)
        return F.adaptive_avg_pool2d(features, 1).flatten(1) if features.ndim == 4 else features

    def train(self, mode: bool = True) -> "OwnBackbone":
        super().train(mode)
        self._network[0].training = self.training  # which a frozen layer keeps
        return self

    def _try_out(self, size: int) -> int:
        training = self.training
        images = torch.zeros(2, 3, size, size, dtype=torch.uint8, device=self.input_mean.device)
        name = type(self._network[0]).__name__
        try:
            with torch.no_grad():
                features: Any = self.eval()(images)
        except Exception as error:  # somebody's code
            reason = f"{type(error).__name__}: {error}"
            raise ConfigError(
                [f"model.network: {name} cannot take images [2, 3, {size}, {size}]: {reason}"]
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 2:
            shape = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ConfigError([f"model.network: {name} must give features [n, f] or maps [n, f, h, w], got {shape}"])
        self.train(training)
        return features.shape[1]


def own_backbone(
    network: Any, blocks: Sequence[str] | Mapping[str, Sequence[str]], image_size: int = 64
) -> OwnBackbone:
    """The network under its blocks in forward order: each a layer of that name, or a list of layers and parameters.

    Raises `ConfigError` for names that do not exist and for parameters that no block holds.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError([f"model.network: is a {type(network).__name__}, no torch.nn.Module"])
    by_name = blocks if isinstance(blocks, Mapping) else {name: [name] for name in blocks}
    known = [name for name, _ in (*network.named_modules(), *network.named_parameters()) if name]
    named = [layer for layers in by_name.values() for layer in layers]
    problems = [f"model.blocks: the network has no {n}; {did_you_mean(n, known)}" for n in named if n not in known]
    for name, _ in network.named_parameters():
        if not any(name == layer or name.startswith(f"{layer}.") for layer in named):
            problems.append(f"model.blocks: {name} is in no block; name the layer that it belongs to")
            break
    if problems:
        raise ConfigError(problems)
    return OwnBackbone(network, by_name, image_size)
