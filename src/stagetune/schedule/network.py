"""A module as a plan sees it: which parameters and layers are which, told apart as objects, not by name."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import UninitializedParameter

from stagetune.errors import ScheduleError, did_you_mean
from stagetune.schedule.model import BACKBONE, Model, Parameter, block_label
from stagetune.schedule.spec import HEAD

Blocks = Mapping[str, Sequence[str]]  # each block of the backbone, in forward order, with the names of its layers
CameFrozen = Literal["hold", "open"]
_WRAPPER = "_orig_mod"  # what torch.compile keeps the module under that it wraps


@dataclass(frozen=True)
class Network:
    """A module's parameters and layers by the names that a plan has for them.

    Attributes:
        module: the whole of it.
        backbone: its pretrained part, without a wrapper of torch.compile.
        model: the same without torch.
        parameters: each parameter by the plan's name for it.
        layers: the layers, or bare parameters, of each block, in forward order.
    """

    module: nn.Module
    backbone: nn.Module
    model: Model
    parameters: Mapping[str, nn.Parameter]
    layers: Mapping[str, Sequence[nn.Module | nn.Parameter]]

    @property
    def norms(self) -> list[nn.Module]:
        """The backbone's BatchNorm layers."""
        return [layer for layer in self.backbone.modules() if isinstance(layer, _BatchNorm)]

    def check_complete(self) -> None:
        """Raise `ScheduleError` for a parameter that the module has now and had not when it was looked at."""
        known = set(map(id, self.parameters.values()))
        for name, parameter in self.module.named_parameters():
            if id(parameter) not in known:
                raise ScheduleError(
                    f"{name} was made after the plan; make it in __init__, setup or configure_model of the module"
                )


def describe(
    module: nn.Module,
    blocks: Blocks | Sequence[str] | None = None,
    *,
    backbone: str = "backbone",
    came_frozen: CameFrozen = "hold",
) -> Model:
    """What a plan has to know of a module; see `network_of`."""
    return network_of(module, blocks, backbone=backbone, came_frozen=came_frozen).model


def network_of(
    module: nn.Module,
    blocks: Blocks | Sequence[str] | None = None,
    *,
    backbone: str = "backbone",
    came_frozen: CameFrozen = "hold",
) -> Network:
    """Look at a module: each of its parameters is in one block, in the head, or held.

    Args:
        module: the whole of it, complete.
        blocks: the backbone's blocks in forward order: names of layers, or each block with the names of its layers.
            By default the backbone's own `blocks`, else its bare parameters and each of its layers.
        backbone: the attribute that is the pretrained part, such as model.encoder.
        came_frozen: `hold` what came frozen as it is, or `open` the blocks (and a head) that did like others. What
            came frozen beside a head that trains, such as a teacher, is held in either case.

    Returns:
        Its parameters and layers by the plan's names.

    Raises:
        ScheduleError: for a module without a backbone, for blocks that do not fit it, and for parameters of the
            backbone that train and are in no block.
    """
    root = _unwrapped(_attribute(module, backbone))
    layers = _layers(root, blocks)
    block_of: dict[int, str] = {}
    for block, members in layers.items():
        for member in members:
            for parameter in _parameters(member):
                block_of.setdefault(id(parameter), block)
    inner = {id(p): BACKBONE + _clean(name) for name, p in root.named_parameters()}
    norms = {
        id(p) for layer in module.modules() if isinstance(layer, _BatchNorm) for p in layer.parameters(recurse=False)
    }
    found: dict[str, nn.Parameter] = {}
    for own_name, parameter in [*module.named_parameters(), *root.named_parameters(prefix="backbone")]:
        if isinstance(parameter, UninitializedParameter):
            raise ScheduleError(f"{own_name} has no shape yet; run a batch through its lazy layer in setup()")
        name = inner.get(id(parameter)) or _outer_name(own_name)
        if found.setdefault(name, parameter) is not parameter:
            raise ScheduleError(f"two parameters are called {name}; give one of them another name")
    outside = [parameter for parameter in found.values() if id(parameter) not in inner]
    opens_head = came_frozen == "open" and not any(parameter.requires_grad for parameter in outside)
    parameters = []
    for name, parameter in found.items():
        is_frozen, owner = not parameter.requires_grad, block_of.get(id(parameter))
        can_train = parameter.is_floating_point() or parameter.is_complex()
        if id(parameter) not in inner:
            held = is_frozen and not (opens_head and can_train)
        elif owner is not None:
            held = is_frozen and (came_frozen == "hold" or not can_train)
        elif is_frozen:
            held = True
        else:
            own = name.removeprefix(BACKBONE)
            raise ScheduleError(
                f"{name} is in no block; name {own.split('.')[0]} in blocks=..., or hold it: "
                f"{backbone}.get_parameter({own!r}).requires_grad_(False)"
            )
        size, is_norm = (parameter.numel(), parameter.ndim), id(parameter) in norms
        parameters.append(Parameter(name, owner or HEAD, *size, is_norm, held))
    order = [*layers, HEAD]
    parameters.sort(key=lambda parameter: order.index(parameter.block))
    return Network(module, root, Model(tuple(layers), tuple(parameters)), found, layers)


def _attribute(module: nn.Module, path: str) -> nn.Module:
    try:
        found = attrgetter(path)(module)
    except (AttributeError, TypeError):
        found = None
    if not isinstance(found, nn.Module):
        remedy = "name its pretrained part self.backbone" if path == "backbone" else "give the path of an attribute"
        raise ScheduleError(f"{type(module).__name__} has no {path}; {remedy}")
    return found


def _unwrapped(module: nn.Module) -> nn.Module:
    inner = getattr(module, _WRAPPER, None)
    return inner if isinstance(inner, nn.Module) else module


def _outer_name(own_name: str) -> str:
    """A name beside the backbone's, whose names alone begin with `backbone.`."""
    name = _clean(own_name)
    return f"{HEAD}.{name}" if name.startswith(BACKBONE) else name


def _clean(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _WRAPPER)


def _layers(root: nn.Module, given: Blocks | Sequence[str] | None) -> dict[str, list[nn.Module | nn.Parameter]]:
    """The layers of each block under its label; raises `ScheduleError` for what the backbone does not have."""
    own = getattr(root, "blocks", None)
    if given is None and (isinstance(own, Mapping) or _are_names(own)):
        given = own
    is_default = given is None
    if given is None:
        given = _default_blocks(root)
    elif not isinstance(given, Mapping):
        given = {str(name): [str(name)] for name in given}
    given = {str(block): [names] if isinstance(names, str) else [*(names or ())] for block, names in given.items()}
    known = {_clean(name): part for name, part in (*root.named_modules(), *root.named_parameters()) if name}
    layers: dict[str, list[nn.Module | nn.Parameter]] = {}
    owners: dict[int, str] = {}
    for block, names in given.items():
        label = block_label(block)
        for name in names:
            if name not in known:
                raise ScheduleError(f"the backbone has no layer {name}; {did_you_mean(name, list(known))}")
            for part in _parts(known[name]):
                other = owners.get(id(part), label)
                if other != label and not is_default and _is_listed(part, given, known):
                    raise ScheduleError(f"layer {name} stands in blocks {other} and {label}; name it in one of them")
                owners.setdefault(id(part), label)
        if label in layers:
            raise ScheduleError(f"two blocks are called {label}; give them other names")
        layers[label] = [known[name] for name in names]
    return layers


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _default_blocks(root: nn.Module) -> dict[str, list[str]]:
    """Each bare parameter and each layer; a layer without parameters belongs to the block before it.

    Bare parameters are used before the layers, as tokens and positions are; what came frozen of them is no block.
    """
    blocks = {name: [name] for name, parameter in root.named_parameters(recurse=False) if parameter.requires_grad}
    waiting: list[str] = []  # what comes before the first layer that has parameters
    latest: list[str] = waiting
    for name, layer in root.named_children():
        if any(True for _ in layer.parameters()):
            latest = blocks[name] = [*waiting, name]
            waiting = []
        else:
            latest.append(name)
    return blocks


def _parts(layer: nn.Module | nn.Parameter) -> Iterator[nn.Module | nn.Parameter]:
    yield from layer.modules() if isinstance(layer, nn.Module) else [layer]


def _is_listed(part: object, given: Blocks, known: Mapping[str, nn.Module | nn.Parameter]) -> bool:
    return any(known.get(name) is part for names in given.values() for name in names)


def _parameters(layer: nn.Module | nn.Parameter) -> Iterator[nn.Parameter]:
    yield from layer.parameters() if isinstance(layer, nn.Module) else [layer]
