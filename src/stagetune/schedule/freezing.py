"""Freezing that holds: what is frozen takes no gradient and stays in eval mode whoever calls `train()`."""

from collections.abc import Iterator, Set

from torch import nn

from stagetune.schedule.network import Network

_train = nn.Module.train
_frozen: dict[int, nn.Module] = {}  # layers that a fit holds in eval mode, as objects: some change their hash


class Freezing:
    """Opens and freezes a network for as long as a fit lasts, and puts everything back after it.

    Nothing is replaced or hooked on the module, so that copies of it are free: what holds a frozen layer in eval
    mode is `nn.Module.train`, which knows those layers while a fit is running.

    Args:
        network: whose parameters and layers; their `requires_grad` and modes are what `release` goes back to.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._trainable = [(p, p.requires_grad) for p in network.module.parameters()]
        self._modes = {id(layer): (layer, layer.training) for layer in network.module.modules()}

    def open_only(self, opened: Set[str], batch_norm: str = "auto") -> None:
        """Make exactly the parameters named in `opened` trainable and put each layer into the mode that goes with it.

        May be called at any time and any number of times.

        Args:
            opened: names as in the plan.
            batch_norm: `auto`: a block or layer of which nothing is open is in eval mode; `frozen`: so are all
                BatchNorm layers of the backbone.
        """
        for name, parameter in self.network.parameters.items():
            parameter.requires_grad_(name in opened)
            if not parameter.requires_grad:
                parameter.grad = None  # a gradient left over from before must not be applied
        self._let_go()
        self.network.module.train()
        held = {id(layer): layer for layer in self._frozen_layers()}
        norms = {id(layer): layer for layer in self.network.norms}
        if batch_norm == "frozen":
            held |= norms
        for layer in held.values():
            layer.eval()
        if batch_norm == "train":  # also those that have no parameters to be open
            held = {key: layer for key, layer in held.items() if key not in norms}
            for layer in norms.values():
                layer.train()
        _frozen.update(held)
        nn.Module.train = _train_but_frozen  # type: ignore[method-assign, assignment]

    def release(self) -> None:
        """Go back to the `requires_grad` and the modes that everything had."""
        self._let_go()
        for parameter, trains in self._trainable:
            parameter.requires_grad_(trains)
        for layer, mode in self._modes.values():
            layer.training = mode

    def _let_go(self) -> None:
        for layer in self.network.module.modules():
            _frozen.pop(id(layer), None)
        if not _frozen:
            nn.Module.train = _train  # type: ignore[method-assign]

    def _frozen_layers(self) -> Iterator[nn.Module]:
        """Every layer that belongs to a wholly frozen block, or none of whose own parameters is open."""
        before: bool | None = None  # whether the block before is frozen; one without parameters is as it is
        for members in self.network.layers.values():
            layers = [member for member in members if isinstance(member, nn.Module)]
            inner = [parameter for layer in layers for parameter in layer.parameters()]
            inner += [member for member in members if isinstance(member, nn.Parameter)]
            if inner or before is None:
                before = bool(inner) and not any(parameter.requires_grad for parameter in inner)
            if before:
                for layer in layers:  # with its parameterless layers, such as dropout
                    yield from layer.modules()
        yield from self._frozen_within(self.network.module)

    def _frozen_within(self, layer: nn.Module) -> Iterator[nn.Module]:
        for child in layer.children():
            parameters = list(child.parameters())
            # without parameters it trains, unless it came in eval mode into a layer that trains: that was on purpose
            is_frozen = bool(parameters) or (self._came(layer) and not self._came(child))
            if is_frozen and not any(parameter.requires_grad for parameter in parameters):
                yield from child.modules()
            else:
                yield from self._frozen_within(child)

    def _came(self, layer: nn.Module) -> bool:
        """Whether the layer came in train mode."""
        return self._modes[id(layer)][1] if id(layer) in self._modes else True


def _train_but_frozen(layer: nn.Module, mode: bool = True) -> nn.Module:
    _train(layer, mode)
    if id(layer) in _frozen:
        layer.training = False
    return layer
