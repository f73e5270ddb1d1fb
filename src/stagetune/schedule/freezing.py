"""Freezing that holds: what is frozen takes no gradient and stays in eval mode whatever calls `train()`."""

from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stagetune.config.schema import HEAD
from stagetune.errors import ScheduleError, did_you_mean
from stagetune.schedule.model import Model, Parameter

Blocks = Mapping[str, Sequence[str]]  # each block of the backbone, in forward order, with the names of its layers


def blocks_of(module: nn.Module, given: Blocks | Sequence[str] | None = None) -> Blocks:
    """The blocks of `module.backbone`: those given, else its own `blocks`, else each of its layers.

    Raises `ScheduleError` for a module without a backbone, and for layers that it does not have.
    """
    backbone = getattr(module, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise ScheduleError(f"{type(module).__name__} has no backbone; name its pretrained part self.backbone")
    if given is None:
        given = getattr(backbone, "blocks", None)
    if not isinstance(given, Mapping):
        names = given if isinstance(given, list | tuple) else [name for name, _ in backbone.named_children()]
        given = {str(name): [str(name)] for name in names}
    known = [name for name, _ in (*backbone.named_modules(), *backbone.named_parameters()) if name]
    for layers in given.values():
        for layer in layers:
            if layer not in known:
                raise ScheduleError(f"the backbone has no layer {layer}; {did_you_mean(layer, known)}")
    return given


def describe(module: nn.Module, blocks: Blocks | Sequence[str] | None = None) -> Model:
    """The model as a plan sees it: the backbone's parameters by block, all else is the head."""
    blocks = blocks_of(module, blocks)
    block_of = {f"backbone.{layer}": block for block, layers in blocks.items() for layer in layers}
    norms = {name for name, layer in module.named_modules() if isinstance(layer, _BatchNorm)}
    parameters = []
    for name, value in module.named_parameters():
        owners = (name[:end] for end, letter in enumerate(f"{name}.") if letter == ".")
        block = next((block_of[owner] for owner in owners if owner in block_of), HEAD)
        parameters.append(Parameter(name, block, value.numel(), value.ndim, name.rpartition(".")[0] in norms))
    order = [*blocks, HEAD]
    return Model(tuple(blocks), tuple(sorted(parameters, key=lambda parameter: order.index(parameter.block))))


def open_only(
    module: nn.Module,
    opened: Set[str],
    batch_norm: str = "auto",
    blocks: Blocks | Sequence[str] | None = None,
) -> None:
    """Make exactly the parameters named in `opened` trainable and put each layer into the mode that goes with it.

    A block or layer of which nothing is open is in eval mode; `batch_norm="frozen"` keeps all BatchNorm layers
    of the backbone there. May be called at any time and any number of times.
    """
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in opened)
        if not parameter.requires_grad:
            parameter.grad = None  # a gradient left over from before must not be applied
    held = set(_frozen_layers(module, blocks_of(module, blocks)))
    if batch_norm == "frozen":
        held |= {layer for layer in module.get_submodule("backbone").modules() if isinstance(layer, _BatchNorm)}
    for layer in module.modules():
        layer.__dict__.pop("train", None)
    module.train()
    for layer in held:
        layer.eval()
    for layer in held:
        layer.train = partial(_stay, layer)  # type: ignore[method-assign]


def _frozen_layers(module: nn.Module, blocks: Blocks) -> Iterator[nn.Module]:
    """Every layer that belongs to a wholly frozen block, or none of whose own parameters is open."""
    backbone = module.get_submodule("backbone")
    known = {**dict(backbone.named_parameters()), **dict(backbone.named_modules())}
    for layers in blocks.values():
        members = [member for layer in layers if isinstance(member := known[layer], nn.Module)]
        bare = [member for layer in layers if isinstance(member := known[layer], nn.Parameter)]
        inner = [parameter for member in members for parameter in member.parameters()]
        if not any(parameter.requires_grad for parameter in (*bare, *inner)):
            for member in members:  # with its parameterless layers, such as dropout
                yield from member.modules()
        else:
            for member in members:
                yield from _frozen_within(member)
    for child in module.children():  # the head, and what of the backbone belongs to no block
        yield from _frozen_within(child)


def _frozen_within(layer: nn.Module) -> Iterator[nn.Module]:
    parameters = list(layer.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield from layer.modules()
    else:
        for child in layer.children():
            yield from _frozen_within(child)


def _stay(layer: nn.Module, mode: bool = True) -> nn.Module:
    return layer
