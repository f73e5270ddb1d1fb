"""Freezing that holds: what is frozen takes no gradient and stays in eval mode whatever calls `train()`."""

from collections.abc import Collection
from functools import partial

from torch import nn

from stagetune.schedule.plan import Model, Parameter


def describe(module: nn.Module) -> Model:
    """The model as a plan sees it: `module.backbone` with its named blocks, all else is the head."""
    backbone = module.backbone
    assert isinstance(backbone, nn.Module)
    blocks: dict[str, tuple[str, ...]] = backbone.blocks  # type: ignore[assignment]
    block_of = {f"backbone.{layer}": block for block, layers in blocks.items() for layer in layers}
    return Model(
        blocks=tuple(blocks),
        parameters=tuple(
            Parameter(name, block_of.get(".".join(name.split(".")[:2]), "head"), value.numel(), value.ndim)
            for name, value in module.named_parameters()
        ),
    )


def open_only(module: nn.Module, open_blocks: Collection[str]) -> None:
    """Make exactly the parameters of `open_blocks` trainable and put each layer into the mode that goes with it.

    May be called at any time and any number of times.
    """
    for parameter, described in zip(module.parameters(), describe(module).parameters, strict=True):
        parameter.requires_grad_(described.block in open_blocks)
        if not parameter.requires_grad:
            parameter.grad = None  # a gradient left over from before must not be applied
    backbone = module.backbone
    assert isinstance(backbone, nn.Module)
    blocks: dict[str, tuple[str, ...]] = backbone.blocks  # type: ignore[assignment]
    for block, layers in blocks.items():
        for layer in layers:
            (_release if block in open_blocks else _hold)(backbone.get_submodule(layer))
    for name, child in module.named_children():
        if name != "backbone":
            (_release if "head" in open_blocks else _hold)(child)


def _hold(layer: nn.Module) -> None:
    """Eval mode from now on: `train()` on this layer or on any parent of it leaves it there."""
    layer.__dict__.pop("train", None)
    layer.eval()
    layer.train = partial(_stay, layer)  # type: ignore[method-assign]


def _release(layer: nn.Module) -> None:
    layer.__dict__.pop("train", None)
    layer.train()


def _stay(layer: nn.Module, mode: bool = True) -> nn.Module:
    return layer
