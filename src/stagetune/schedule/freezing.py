"""Freezing that holds: what is frozen takes no gradient and stays in eval mode whoever calls `train()`."""

from collections.abc import Iterator, Set
from weakref import WeakSet

from torch import nn

from stagetune.schedule.network import Network

_train = nn.Module.train
_frozen: WeakSet[nn.Module] = WeakSet()  # layers that a fit holds in eval mode


class Freezing:
    """Opens and freezes a network for as long as a fit lasts, and puts everything back behind it.

    Nothing is replaced or hooked on the module, so that copies of it are free: what holds a frozen layer in eval
    mode is `nn.Module.train`, which knows those layers while a fit is running.

    Args:
        network: whose parameters and layers; their `requires_grad` and modes are what `release` goes back to.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._trainable = [(p, p.requires_grad) for p in network.module.parameters()]
        self._modes = {layer: layer.training for layer in network.module.modules()}

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
        held = set(self._frozen_layers())
        if batch_norm == "frozen":
            held.update(self.network.norms)
        for layer in held:
            layer.eval()
        _frozen.update(held)
        nn.Module.train = _train_but_frozen  # type: ignore[method-assign, assignment]

    def release(self) -> None:
        """Go back to the `requires_grad` and the modes that everything had."""
        self._let_go()
        for parameter, trains in self._trainable:
            parameter.requires_grad_(trains)
        for layer, mode in self._modes.items():
            layer.training = mode

    def _let_go(self) -> None:
        _frozen.difference_update(set(self.network.module.modules()))
        if not _frozen:
            nn.Module.train = _train  # type: ignore[method-assign]

    def _frozen_layers(self) -> Iterator[nn.Module]:
        """Every layer that belongs to a wholly frozen block, or none of whose own parameters is open."""
        for members in self.network.layers.values():
            layers = [member for member in members if isinstance(member, nn.Module)]
            bare = [member for member in members if isinstance(member, nn.Parameter)]
            inner = [parameter for layer in layers for parameter in layer.parameters()]
            if not any(parameter.requires_grad for parameter in (*bare, *inner)):
                for layer in layers:  # with its parameterless layers, such as dropout
                    yield from layer.modules()
        yield from self._frozen_within(self.network.module)

    def _frozen_within(self, layer: nn.Module) -> Iterator[nn.Module]:
        for child in layer.children():
            parameters = list(child.parameters())
            # without parameters it trains, unless it came in eval mode into a layer that trains: that was on purpose
            is_frozen = bool(parameters) or (self._modes.get(layer, True) and not self._modes.get(child, True))
            if is_frozen and not any(parameter.requires_grad for parameter in parameters):
                yield from child.modules()
            else:
                yield from self._frozen_within(child)


def _train_but_frozen(layer: nn.Module, mode: bool = True) -> nn.Module:
    _train(layer, mode)
    if layer in _frozen:
        layer.training = False
    return layer
