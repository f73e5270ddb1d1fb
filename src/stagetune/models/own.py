"""Somebody's own network as a backbone with named blocks."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from stagetune.errors import ConfigError, did_you_mean
from stagetune.models.backbone import IMAGENET, Normal
from stagetune.models.classifier import leave_out_classifier
from stagetune.models.network_key import network_key
from stagetune.models.whole import Whole


def own_backbone(
    network: Any,
    blocks: Sequence[str] | Mapping[str, Sequence[str]],
    image_size: int = 64,
    *,
    normal: Normal = IMAGENET,
    layout: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Whole:
    """The network under its blocks; a classifier at its end is left out.

    Args:
        network: takes images [n, 3, h, w], see `Whole`.
        blocks: in forward order, each a layer of that name, or a list of layers and parameters.
        image_size: pixels per side.
        normal: mean and std of images, as its weights want them.
        layout: of its output, see `Whole`.
        arguments: of its constructor, which tell its cached features apart.

    Returns:
        The backbone.

    Raises:
        ConfigError: for names that do not exist, for parameters that no block holds, and for what `Whole` refuses.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError([f"model.network: is a {type(network).__name__}, no torch.nn.Module"])
    given = blocks if isinstance(blocks, Mapping) else {name: [name] for name in blocks}
    if empty := [block for block, layers in given.items() if layers is None]:
        raise ConfigError([f"model.blocks.{empty[0]}: is empty; list its layers, or leave it out"])
    by_name = {  # a layer of nn.Sequential is called by a number
        str(block): [str(layer) for layer in (layers if isinstance(layers, list | tuple) else [layers])]
        for block, layers in given.items()
    }
    key, had, said = network_key(network, arguments), _with_weights(network, by_name), list[str]()
    device = next((parameter.device for parameter in network.parameters()), torch.get_default_device())
    with suppress(Exception):  # `Whole` says with its reason that it cannot take images
        said = leave_out_classifier(network, torch.zeros(2, 3, image_size, image_size, device=device))
    known = [name for name, _ in (*network.named_modules(), *network.named_parameters()) if name]
    named = [layer for layers in by_name.values() for layer in layers]
    problems = [f"model.blocks: the network has no {n}; {did_you_mean(n, known)}" for n in named if n not in known]
    for name, _ in network.named_parameters():
        if not _is_in(name, named):
            problems.append(f"model.blocks: {name} is in no block; name the layer that it belongs to")
            break
    if problems:
        raise ConfigError(problems)
    lost = had - _with_weights(network, by_name)  # blocks of which the classifier was all
    return Whole(
        network,
        {block: layers for block, layers in by_name.items() if block not in lost},
        image_size=image_size,
        normal=normal,
        layout=layout,
        network_key=key,
        said=said,
    )


def _with_weights(network: nn.Module, blocks: Mapping[str, Sequence[str]]) -> set[str]:
    """The blocks that have parameters."""
    names = [name for name, _ in network.named_parameters()]
    return {block for block, layers in blocks.items() if any(_is_in(name, layers) for name in names)}


def _is_in(name: str, layers: Sequence[str]) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)
