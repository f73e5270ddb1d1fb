"""Running a module's steps without a trace: all that they may touch is what it was, bit for bit.

Parameters are copied only where something writes into them, for a copy of all would be the peak of memory.
"""

import random
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def undisturbed(trainer: Any, pl_module: LightningModule) -> Iterator[set[str]]:
    """Run steps of a module without a trace.

    Args:
        trainer: whose loggers and wish to stop are put back, too.
        pl_module: the module whose steps are run.

    Yields:
        The names that are logged, as they come.
    """
    logged: set[str] = set()
    gradients = [(parameter, parameter.grad) for parameter in pl_module.parameters()]
    weights = [(parameter, parameter.data) for parameter, _ in gradients]
    kept = _Kept(pl_module, {})
    before = trainer.should_stop, trainer.loggers
    for parameter, _ in gradients:
        parameter.grad = None
    pl_module.__dict__["log"] = lambda name, *_, **__: logged.add(name)
    trainer.loggers = [DummyLogger()] if trainer.loggers else []
    written = _CopyOnWrite([parameter for parameter, _ in gradients])
    try:
        with isolate_rng(), torch.compiler.set_stance("force_eager"), written:
            yield logged
    finally:
        for parameter, data in weights:
            parameter.data = data  # another tensor may have taken its place
        written.put_back()
        kept.put_back()
        trainer.should_stop, trainer.loggers = before
        for parameter, gradient in gradients:
            parameter.grad = gradient


class _CopyOnWrite(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies a parameter before the first operation that writes into it, such as a momentum encoder's update."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._parameters = {_memory(parameter): parameter for parameter in parameters}
        self._copies: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                given = args[place] if place < len(args) else kwargs.get(argument.name)
                for tensor in given if isinstance(given, list | tuple) else [given]:
                    self._keep(tensor)
        return func(*args, **kwargs)

    def put_back(self) -> None:
        with torch.no_grad():
            for memory, copy in self._copies.items():
                self._parameters[memory].copy_(copy)

    def _keep(self, tensor: Any) -> None:
        memory = _memory(tensor) if isinstance(tensor, Tensor) else 0
        if memory in self._parameters and memory not in self._copies:
            self._copies[memory] = self._parameters[memory].detach().clone()


def _memory(tensor: Tensor) -> int:
    return 0 if tensor.layout != torch.strided else tensor.untyped_storage().data_ptr()


STATES: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    torch.Generator: (lambda own: own.get_state(), lambda own, state: own.set_state(state)),
    np.random.Generator: (
        lambda own: own.bit_generator.state,
        lambda own, state: setattr(own.bit_generator, "state", state),
    ),
    np.random.RandomState: (lambda own: own.get_state(), lambda own, state: own.set_state(state)),
    random.Random: (lambda own: own.getstate(), lambda own, state: own.setstate(state)),
    np.ndarray: (lambda own: own.copy(), lambda own, state: own.__setitem__(..., state)),
    set: (lambda own: set(own), lambda own, state: (own.clear(), own.update(state))),
}
CONTAINERS = (dict, OrderedDict, defaultdict, list, deque, tuple)  # exactly these: others may mean more by writing


class _Kept:
    """A module, container or tensor as it is now, with all that is in it; the objects stay the same ones."""

    def __init__(self, value: Any, memo: dict[int, "_Kept"]) -> None:
        self.value = value
        memo[id(value)] = self
        self.content: Any
        if isinstance(value, Tensor):
            self.content = value.detach().clone()
        elif type(value) in STATES:
            self.content = STATES[type(value)][0](value)
        elif isinstance(value, list | deque | tuple):
            self.content = [_keep(part, memo) for part in value]
        else:
            named = vars(value) if isinstance(value, nn.Module) else value
            self.content = {key: _keep(part, memo) for key, part in named.items()}
        self._is_put_back = False

    def put_back(self) -> Any:
        if self._is_put_back:
            return self.value
        self._is_put_back = True
        value, content = self.value, self.content
        if isinstance(value, Tensor):
            _put_back_tensor(value, content)
        elif type(value) in STATES:
            STATES[type(value)][1](value, content)
        elif isinstance(content, list):
            parts = [_put_back(part) for part in content]
            if not isinstance(value, tuple):
                value.clear()
                value.extend(parts)
        else:
            target = vars(value) if isinstance(value, nn.Module) else value
            named = {key: _put_back(part) for key, part in content.items()}
            target.clear()
            target.update(named)
        return value


def _put_back_tensor(value: Tensor, content: Tensor) -> None:
    if value.is_meta:
        return
    with torch.no_grad():
        if value.shape != content.shape or value.layout != torch.strided:
            value.data = content
        elif not torch.equal(value, content):
            value.copy_(content)


def _keep(value: Any, memo: dict[int, _Kept]) -> Any:
    if id(value) in memo:
        return memo[id(value)]
    is_tensor = isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
    is_state = is_tensor or isinstance(value, nn.Module) or type(value) in CONTAINERS or type(value) in STATES
    return _Kept(value, memo) if is_state else value


def _put_back(part: Any) -> Any:
    return part.put_back() if isinstance(part, _Kept) else part
