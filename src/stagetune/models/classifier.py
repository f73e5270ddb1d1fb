"""The class scores that a pretrained network ends in, which are no features."""

from typing import Any

import torch
from torch import nn

KNOWN = (1000, 1001, 10450, 11221, 11821, 21841, 21843)  # classes of ImageNet, in its usual editions
CALLED = ("classifier", "logits", "last_linear")
PERHAPS = ("fc", "head", "heads")  # what an embedding may be called as well


def leave_out_classifier(network: nn.Module, images: torch.Tensor) -> list[str]:
    """Put an identity in place of the linear layer that gives class scores, where it is one for certain.

    It is one if it computes last, and is called so, or has as many outputs as ImageNet has classes or as the network
    itself says by `num_classes`. An embedding stays.

    Args:
        network: changed in place.
        images: normalised, as it takes them.

    Returns:
        What was done, in sentences.
    """
    name, layer = _last(network, images)
    if not isinstance(layer, nn.Linear):
        return []
    what = f"{type(network).__name__}'s {name} ({layer.in_features:,} features to {layer.out_features:,}"
    words = name.split(".")
    classes = {*KNOWN, getattr(network, "num_classes", None)}
    if layer.out_features in classes or any(word.startswith(CALLED) for word in words):
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, nn.Identity())
        return [f"{what} class scores) is left out"]
    if any(word in PERHAPS for word in words):
        return [f"{what}) is taken for features; if it gives class scores, put nn.Identity() in its place"]
    return []


def _last(network: nn.Module, images: torch.Tensor) -> tuple[str, nn.Module | None]:
    """The layer with parameters of its own that computes last, if the network gives what it gives."""
    last: list[tuple[str, nn.Module, Any]] = []
    handles = [
        layer.register_forward_hook(lambda layer, _, output, name=name: last.append((name, layer, output)))
        for name, layer in network.named_modules()
        if name and list(layer.parameters(recurse=False))
    ]
    modes = [(layer, layer.training) for layer in network.modules()]
    try:
        with torch.no_grad():
            output = network.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        for inner, mode in modes:
            inner.training = mode
    if last and isinstance(output, torch.Tensor) and output.shape == getattr(last[-1][2], "shape", None):
        return last[-1][:2]
    return "", None
