"""Freezing that holds: what is frozen takes no gradient and stays in eval mode whatever calls `train()`."""

from collections.abc import Iterator, Set
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stagetune.config.schema import HEAD
from stagetune.schedule.model import Model, Parameter


def describe(module: nn.Module) -> Model:
    """The model as a plan sees it: `module.backbone` with its named blocks, all else is the head."""
    blocks = _blocks(module)
    block_of = {f"backbone.{layer}": block for block, layers in blocks.items() for layer in layers}
    norms = {name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    parameters = []
    for name, value in module.named_parameters():
        owners = (name[:end] for end, letter in enumerate(name) if letter == ".")
        block = next((block_of[owner] for owner in owners if owner in block_of), HEAD)
        parameters.append(Parameter(name, block, value.numel(), value.ndim, name.rpartition(".")[0] in norms))
    return Model(tuple(blocks), tuple(parameters))


def open_only(module: nn.Module, opened: Set[str], batch_norm: str = "auto") -> None:
    """Make exactly the parameters named in `opened` trainable and put each layer into the mode that goes with it.

    A block or layer of which nothing is open is in eval mode; `batch_norm="frozen"` keeps all BatchNorm layers
    of the backbone there. May be called at any time and any number of times.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in opened)
        if not parameter.requires_grad:
            parameter.grad = None  # a gradient left over from before must not be applied
    held = set(_frozen_layers(module))
    if batch_norm == "frozen":
        held |= {layer for layer in _backbone(module).modules() if isinstance(layer, _BatchNorm)}
    for layer in module.modules():
        layer.__dict__.pop("train", None)
    module.train()
    for layer in held:
        layer.eval()
    for layer in held:
        layer.train = partial(_stay, layer)  # type: ignore[method-assign]


def _frozen_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Every layer that belongs to a wholly frozen block, or none of whose own parameters is open."""
    backbone = _backbone(module)
    for layers in _blocks(module).values():
        members = [backbone.get_submodule(layer) for layer in layers]
        if not any(parameter.requires_grad for member in members for parameter in member.parameters()):
            for member in members:  # with its parameterless layers, such as dropout
                yield from member.modules()
        else:
            for member in members:
                yield from _frozen_within(member)
    for name, child in module.named_children():
        if name != "backbone":
            yield from _frozen_within(child)


def _frozen_within(layer: nn.Module) -> Iterator[nn.Module]:
    parameters = list(layer.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield from layer.modules()
    else:
        for child in layer.children():
            yield from _frozen_within(child)


def _backbone(module: nn.Module) -> nn.Module:
    backbone = module.backbone
    assert isinstance(backbone, nn.Module)
    return backbone


def _blocks(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """The backbone's blocks in forward order, each with the names of its layers."""
    blocks: dict[str, tuple[str, ...]] = _backbone(module).blocks  # type: ignore[assignment]
    return blocks


def _stay(layer: nn.Module, mode: bool = True) -> nn.Module:
    return layer
