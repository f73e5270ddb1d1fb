"""Which channels of a backbone are left out: those of least magnitude, among those that can be."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from stagetune.errors import ConfigError
from stagetune.models.backbone import Backbone
from stagetune.models.cut import CUTTABLE, cut, silence

TOLERANCE = 1e-5  # of the trial, relative to the largest feature; 3e-7 was seen where fewer channels are summed


@dataclass(frozen=True)
class Pruned:
    """What was left out of a backbone.

    Attributes:
        removed: see `cut.Removed`; plain lists, which a checkpoint keeps.
        kept_for: by block, why channels that its layers have stay as they are, in words.
    """

    removed: dict[str, dict[str, list[int]]]
    kept_for: dict[str, list[str]]


def prune(backbone: Backbone, ratio: float, image_size: int) -> Pruned:
    """Leave out the channels of least magnitude, in place.

    Layers whose channels belong together (a residual stream, a convolution and its BatchNorm) lose the same ones:
    torch-pruning finds which do (Fang et al. 2023, DepGraph) and how large they are. Left alone are channels that

    - are the features, so that the head, a gallery or whatever else reads them still fits;
    - are normalised together (LayerNorm, GroupNorm), or meet a bare parameter or an attention: leaving one out would
      change the others.

    So a pruned network gives the features that it would give with these channels at 0, which is tried out here.

    Args:
        backbone: with the weights that are to be judged; what is frozen counts as all else, and stays so.
        ratio: the share of channels that each group of layers loses.
        image_size: pixels per side.

    Returns:
        What was removed, and why the rest was not.

    Raises:
        ConfigError: where torch-pruning is not installed, where no channel can be left out, and where the network's
            own code does with channels what cannot be seen from its layers.
    """
    images = _images(image_size)
    modes = [(layer, layer.training) for layer in backbone.modules()]
    try:
        backbone.eval()
        removed, kept_for = _chosen(backbone, ratio, images)
        if not removed:
            reasons = ", ".join(dict.fromkeys(reason for of in kept_for.values() for reason in of))
            removes = f"removes nothing ({reasons or 'it has no channels to choose from'})"
            raise ConfigError([f"model.prune.ratio={ratio}: {removes}; leave it out, or choose another model"])
        with torch.no_grad():
            silence(backbone, removed)
            expected = backbone(images)
            try:
                cut(backbone, removed)
                backbone.relearn(image_size)
                found = backbone(images)
                problem = "" if _is_close(found, expected) else "it gives other features than with them at 0"
            except Exception as error:  # somebody's code
                problem = _words(error)
        if problem:
            raise _cannot(ratio, f"its own code does with channels what its layers do not show, {problem}")
    finally:
        for layer, mode in modes:
            layer.training = mode
    return Pruned(removed, kept_for)


def block_of(backbone: Backbone, name: str) -> str:
    """The block that a layer, or a parameter, of that name is in; empty where it is in none."""
    owners = ((layer, block) for block, layers in backbone.blocks.items() for layer in layers)
    return next((block for layer, block in owners if name == layer or name.startswith(f"{layer}.")), "")


def _chosen(
    backbone: Backbone, ratio: float, images: Tensor
) -> tuple[dict[str, dict[str, list[int]]], dict[str, list[str]]]:
    """What would be removed by layer, and why the rest would not by block; nothing is changed."""
    pruning = torch_pruning()
    names = {layer: name for name, layer in backbone.named_modules()}
    with _opened(backbone), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters that stand alone, which are left alone
        try:
            pruner = pruning.pruner.BasePruner(
                backbone,
                images,
                pruning.importance.GroupMagnitudeImportance(),
                pruning_ratio=ratio,
                # their defaults are shared by all pruners of a process, and would keep each network in memory
                in_channel_groups={},
                out_channel_groups={},
                num_heads={},
                forward_fn=lambda network, given: network(given),  # else it would try the images one by one first
                output_transform=lambda features: features + 0,  # so that what gives the features is no layer itself
            )
            groups = list(pruner.step(interactive=True))  # none is pruned: all count channels as they are now
        except Exception as error:  # somebody's code, or a network that it cannot follow
            raise _cannot(ratio, f"torch-pruning cannot follow its channels, {_words(error)}") from error
    removed: dict[str, dict[str, set[int]]] = {}
    kept_for: dict[str, list[str]] = {}
    tied = _tied(backbone)
    for group in groups:
        layers = {dep.target.module: None for dep, _ in group if dep.target.module in names}
        if reason := _why_not(group, pruning.ops, tied):
            for block in dict.fromkeys(block_of(backbone, names[layer]) for layer in layers):
                kept_for.setdefault(block, []).append(reason)
            continue
        for dep, channels in group:
            layer = dep.target.module
            if layer in names:
                is_output = pruner.DG.is_out_channel_pruning_fn(dep.handler)
                is_both = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1
                for side in ("outputs", "inputs") if is_both else ("outputs" if is_output else "inputs",):
                    removed.setdefault(names[layer], {}).setdefault(side, set()).update(channels)
    plain = {name: {side: sorted(of) for side, of in sides.items()} for name, sides in removed.items()}
    return plain, {block: list(dict.fromkeys(reasons)) for block, reasons in kept_for.items()}


def _why_not(group: Any, ops: Any, tied: set[nn.Module]) -> str:
    """Why the channels of a group of layers cannot be left out alone, in words; empty if they can."""
    for dep, _ in group:
        target = dep.target
        if target.type == ops.OPTYPE.OUTPUT:
            return "its outputs are the features"
    for dep, _ in group:
        target, layer = dep.target, dep.target.module
        if target.type == ops.OPTYPE.PARAMETER:
            return "its outputs meet a parameter that stands alone"
        if target.type == ops.OPTYPE.UNBIND or isinstance(layer, nn.MultiheadAttention):
            return "its outputs go through attention"
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
            return f"a {type(layer).__name__} normalises its outputs together"
        if isinstance(layer, nn.Module) and not isinstance(layer, CUTTABLE) and any(layer.parameters()):
            return f"a {type(layer).__name__} reads its outputs"
        if layer in tied:
            return "a weight of it is another layer's, too"
    return ""


def _tied(backbone: nn.Module) -> set[nn.Module]:
    """Layers of which a parameter is shared, or computed from others."""
    owners: dict[int, set[nn.Module]] = {}
    for layer in backbone.modules():
        for parameter in layer.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(layer)
    shared = {layer for of in owners.values() if len(of) > 1 for layer in of}
    computed = {layer for layer in backbone.modules() if hasattr(layer, "parametrizations")}
    return shared | computed


def _cannot(ratio: float, why: str) -> ConfigError:
    return ConfigError(
        [f"model.prune.ratio={ratio}: this network cannot be pruned: {why}; leave it out, or choose another model"]
    )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def torch_pruning() -> Any:
    """The library; raises `ConfigError` where it is not installed."""
    try:
        return import_module("torch_pruning")
    except ImportError as error:
        raise ConfigError(["model.prune.ratio: needs torch-pruning; pip install 'stagetune[prune]'"]) from error


@contextmanager
def _opened(backbone: nn.Module) -> Iterator[None]:
    """Within, every parameter takes a gradient: torch-pruning leaves out what does not, without a word."""
    before = [(parameter, parameter.requires_grad) for parameter in backbone.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        yield
    finally:
        for parameter, was in before:
            parameter.requires_grad_(was)


def _images(size: int) -> Tensor:
    """Two, of random pixels."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)


def _is_close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= TOLERANCE * expected.abs().max())
