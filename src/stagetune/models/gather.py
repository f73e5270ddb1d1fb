"""A network's groups of parameters gathered into the blocks stem, layer1 ... layer4, so that every schedule fits."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import nn

from stagetune.config.settings import BLOCKS

Group = Sequence[str]  # names of parameters


def gather(groups: Sequence[Group], ends: Iterable[int] = ()) -> dict[str, list[str]]:
    """Groups in forward order as five blocks.

    Args:
        groups: at least five.
        ends: where known, the last group of each resolution. Of four or more, layer1 ... layer4 end where the last
            four end; what comes before is the stem, and what comes after the last belongs to layer4. Else the first
            group is the stem, and the others are divided in four.

    Returns:
        The parameters of each block.

    >>> gather([["a"], ["b"], ["c"], ["d"], ["e"], ["f"]])
    {'stem': ['a'], 'layer1': ['b'], 'layer2': ['c', 'd'], 'layer3': ['e'], 'layer4': ['f']}
    """
    count = len(groups) - 1
    *before, first, second, third, _ = [-1, -1, -1, -1, *sorted(set(ends) - {0})]
    if first > 0:
        begins = max(*before, 0) + 1
        bounds = [0, begins, first + 1, second + 1, third + 1, len(groups)]
    else:
        bounds = [0, *(1 + round(quarter * count / 4) for quarter in range(5))]
    pieces = [groups[low:high] for low, high in pairwise(bounds)]
    return {block: [name for group in piece for name in group] for block, piece in zip(BLOCKS, pieces, strict=True)}


def covering(network: nn.Module, names: Iterable[str]) -> list[str]:
    """The largest layers all of whose parameters are among `names`, and the parameters that stand alone, in order."""
    wanted, found = set(names), []

    def look(layer: nn.Module, prefix: str) -> None:
        own = [prefix + name for name, _ in layer.named_parameters()]
        if prefix and own and wanted.issuperset(own):
            found.append(prefix[:-1])
            return
        found.extend(prefix + name for name, _ in layer.named_parameters(recurse=False) if prefix + name in wanted)
        for name, child in layer.named_children():
            look(child, f"{prefix}{name}.")

    look(network, "")
    return found


def with_weights(network: nn.Module, groups: Iterable[Group]) -> list[Group]:
    """The groups without those that only normalise, which go with the group before them."""
    dimensions = {name: parameter.ndim for name, parameter in network.named_parameters()}
    found: list[Group] = []
    for group in groups:
        if found and all(dimensions[name] < 2 for name in group):
            found[-1] = [*found[-1], *group]
        else:
            found.append(group)
    return found


def units(network: nn.Module, at_least: int) -> list[Group]:
    """Groups by the order in which a network's layers were made: containers are opened until there are so many.

    What is a parameter of the network itself, such as a class token, goes with its first layers.
    """
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    layers = list(network.named_children())
    while True:
        groups: list[Group] = [[f"{name}.{inner}" for inner, _ in layer.named_parameters()] for name, layer in layers]
        groups = with_weights(network, [group for group in groups if group])
        opened = [
            entry
            for name, layer in layers
            for entry in (
                [(f"{name}.{inner}", child) for inner, child in layer.named_children()]
                if isinstance(layer, containers)
                or (len(groups) < at_least and not list(layer.parameters(recurse=False)))
                else []
            )
            or [(name, layer)]
        ]
        if len(groups) >= at_least or len(opened) == len(layers):
            bare = [name for name, _ in network.named_parameters(recurse=False)]
            return [[*bare, *groups[0]], *groups[1:]] if groups else [bare]
        layers = opened
