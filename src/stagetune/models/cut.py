"""Channels cut out of a backbone's layers: as they are chosen, and again from what a checkpoint has kept of it."""

from collections.abc import Iterator, Mapping, Sequence
from reprlib import repr as abbreviated
from typing import Any

import torch
from torch import Tensor, nn

from stagetune.errors import WeightsError
from stagetune.models.backbone import Backbone

# by layer what it loses, {"outputs": [channels], "inputs": [channels]}, counted before anything of it is cut
Removed = Mapping[str, Mapping[str, Sequence[int]]]
CUTTABLE = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)


def cut(backbone: nn.Module, removed: Removed) -> None:
    """Leave the channels out, in place: all other weights, modes and what is frozen stay as they are.

    Args:
        backbone: whose layers `removed` names, each a convolution, a linear layer or a BatchNorm.
        removed: see `Removed`; of a BatchNorm, whose outputs are its inputs, the outputs alone.

    Raises:
        WeightsError: for layers that it has not, and for channels that they have not or cannot do without.
    """
    layers = dict(backbone.named_modules())
    kept = {name: _kept(name, layers.get(name), sides) for name, sides in removed.items()}  # before any is cut
    for name, (outputs, inputs) in kept.items():
        layer = layers[name]
        if isinstance(layer, nn.Conv2d):
            _cut_convolution(name, layer, outputs, inputs)
        elif isinstance(layer, nn.Linear):
            _put(layer, weight=layer.weight[outputs][:, inputs])
            if layer.bias is not None:
                _put(layer, bias=layer.bias[outputs])
            layer.out_features, layer.in_features = len(outputs), len(inputs)
        else:
            assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
            registers = [(name, getattr(layer, name)) for name in ("weight", "bias", "running_mean", "running_var")]
            _put(layer, **{name: value[outputs] for name, value in registers if value is not None})
            layer.num_features = len(outputs)


def silence(backbone: nn.Module, removed: Removed) -> None:
    """Set the channels to 0 where `cut` would leave them out, and what reads them: the features are the same."""
    layers = dict(backbone.named_modules())
    with torch.no_grad():
        for name, sides in removed.items():
            layer: Any = layers[name]
            outputs, inputs = list(sides.get("outputs", ())), list(sides.get("inputs", ()))
            for register in (layer.weight, layer.bias):
                if register is not None:
                    register[outputs] = 0
            if isinstance(layer, nn.Conv2d):
                per_group = layer.in_channels // layer.groups
                rows = torch.arange(layer.out_channels).view(layer.groups, -1)
                for channel in inputs:
                    layer.weight[rows[channel // per_group], channel % per_group] = 0
            elif isinstance(layer, nn.Linear):
                layer.weight[:, inputs] = 0


def rebuild(backbone: Backbone, history: Sequence[Mapping[str, Any]], image_size: int) -> None:
    """Give a backbone that is as its family builds it the shapes of one that was pruned.

    Args:
        backbone: its weights do not matter: those of the pruned one are copied into it afterwards.
        history: what each pruning removed, oldest first, as a checkpoint's metadata have it.
        image_size: pixels per side, on which it is learnt again where it can begin.

    Raises:
        WeightsError: where the history is of another backbone, or is none.
    """
    if not isinstance(history, list | tuple):
        raise WeightsError(f"its pruning history is no list: {_briefly(history)}")
    for entry in history:
        removed = entry.get("removed") if isinstance(entry, Mapping) else None
        if not isinstance(removed, Mapping) or not removed or not all(isinstance(name, str) for name in removed):
            raise WeightsError(
                f"its pruning history has an entry that does not say what was removed: {_briefly(entry)}"
            )
        cut(backbone, removed)
    if history:
        try:
            backbone.relearn(image_size)
        except Exception as error:  # layers that do not go together any more
            why = " ".join(str(error).split())[:200]
            raise WeightsError(f"its pruning history is not one of this network: {why}") from error


def _kept(name: str, layer: nn.Module | None, sides: Any) -> tuple[Tensor, Tensor]:
    """The outputs and inputs that stay of a layer, by channel; of a BatchNorm there are outputs alone."""
    if not isinstance(layer, CUTTABLE):
        what = "there is no such layer" if layer is None else f"a {type(layer).__name__} cannot be pruned"
        raise WeightsError(f"pruning of {name:.80}: {what}; choose the model that was pruned")
    counts = dict(_counts(layer))
    if not isinstance(sides, Mapping) or not sides.keys() <= counts.keys():
        raise WeightsError(f"pruning of {name}: expects {' and '.join(counts)}, got {_briefly(sides)}")
    kept = [_others(f"{name}, {side}", count, sides.get(side, ())) for side, count in counts.items()]
    if all(len(of) == count for of, count in zip(kept, counts.values(), strict=True)):
        raise WeightsError(f"pruning of {name}: removes nothing")
    return kept[0], kept[-1]


def _briefly(value: Any) -> str:
    """For a message: of lists in lists, as a file may hold them in a few bytes, all of it could be endless."""
    return abbreviated(value)[:80]


def _counts(layer: nn.Module) -> Iterator[tuple[str, int]]:
    if isinstance(layer, nn.Conv2d):
        yield from (("outputs", layer.out_channels), ("inputs", layer.in_channels))
    elif isinstance(layer, nn.Linear):
        yield from (("outputs", layer.out_features), ("inputs", layer.in_features))
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        yield "outputs", layer.num_features


def _others(where: str, count: int, removed: Any) -> Tensor:
    """The channels of `count` that are not removed."""
    is_plain = isinstance(removed, Sequence) and len(removed) <= count and all(type(one) is int for one in removed)
    if not is_plain or len(set(removed)) < len(removed) or not set(removed) <= set(range(count)):
        raise WeightsError(f"pruning of {where}: expects some of {count} channels, got {_briefly(removed)}")
    if len(removed) == count:
        raise WeightsError(f"pruning of {where}: would remove all {count} channels")
    gone = set(removed)
    return torch.tensor([channel for channel in range(count) if channel not in gone])


def _cut_convolution(name: str, layer: nn.Conv2d, outputs: Tensor, inputs: Tensor) -> None:
    """Of a grouped one each group loses as many, or all: a depthwise one loses groups."""
    per_output, per_input = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    of_output = torch.bincount(outputs // per_output, minlength=layer.groups)
    of_input = torch.bincount(inputs // per_input, minlength=layer.groups)
    left = of_output.nonzero().flatten()
    is_even = torch.equal(left, of_input.nonzero().flatten())
    if not is_even or any(len({*of[left].tolist()}) > 1 for of in (of_output, of_input)):
        raise WeightsError(f"pruning of {name}: leaves its {layer.groups} groups uneven; it cannot be pruned so")
    columns = (inputs % per_input).view(len(left), -1)  # of each group that is left
    rows = columns[torch.searchsorted(left, outputs // per_output)]  # of each output
    _put(layer, weight=layer.weight[outputs[:, None], rows])
    if layer.bias is not None:
        _put(layer, bias=layer.bias[outputs])
    layer.out_channels, layer.in_channels, layer.groups = len(outputs), len(inputs), len(left)


def _put(layer: nn.Module, **values: Tensor) -> None:
    """New registers in place of those of these names, as frozen and in the memory format that they were."""
    for name, value in values.items():
        old = getattr(layer, name)
        # by its strides: one of 1 x 1 is contiguous in both formats, and DDP wants those of its gradients
        is_last = old.ndim == 4 and old.stride() == torch.empty_like(old, memory_format=torch.channels_last).stride()
        new = value.detach().clone(memory_format=torch.channels_last if is_last else torch.contiguous_format)
        setattr(layer, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)
