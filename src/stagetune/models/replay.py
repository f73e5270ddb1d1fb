"""A network's own forward in parts: stopped where a block begins, and begun there again.

Everything that is put on the network for that is taken off when the call ends.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from stagetune.errors import TrainingError
from stagetune.models.course import Cut, Zeros


class Stopped(BaseException):
    """The network came to where it was to stop; no `except Exception` on the way takes it for a failure."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@contextmanager
def stopping(network: nn.Module, cut: Cut) -> Iterator[None]:
    """While this lasts, the network's forward raises `Stopped` with what the layer at the cut is given."""

    def stop(_: nn.Module, args: tuple[Any, ...]) -> None:
        raise Stopped(args[0])

    handle = network.get_submodule(cut.layer).register_forward_pre_hook(stop)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def beginning(network: nn.Module, cut: Cut, hidden: Tensor) -> Iterator[Tensor]:
    """While this lasts, the network's forward computes from the cut on what `hidden` gives.

    Its layers before the cut are skipped: each gives zeros of the right shape, from which the code between them goes
    on. What depends on the shapes alone, such as positions, is computed as ever.

    Args:
        network: called once while this lasts.
        cut: where it begins.
        hidden: what the layer there takes, a row for each image.

    Yields:
        What the network is to be called with.
    """
    count, is_learning = hidden.shape[0], torch.is_grad_enabled()
    if cut.is_written:
        hidden = hidden.clone(memory_format=cut.memory_format)
    else:
        hidden = hidden.contiguous(memory_format=cut.memory_format)
    is_reached = False
    counts: dict[str, int] = {}

    def handed(given: Any) -> Any:
        if is_learning:
            _refuse_recomputed(cut.layer)
        return hidden

    def reach(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal is_reached
        is_first, is_reached = not is_reached, True
        return (handed(args[0]), *args[1:]) if is_first and cut.source is None else None

    def skipping(name: str, own: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            index = counts.get(name, 0)
            if is_reached or index >= len(cut.skipped[name]):
                return own(*args, **kwargs)
            counts[name] = index + 1
            if (name, index) == cut.source:
                return handed(args)
            return _filled(cut.skipped[name][index], count, hidden.device)

        return forward

    layers = {name: network.get_submodule(name) for name in cut.skipped}
    before = {name: vars(layer).get("forward") for name, layer in layers.items()}
    handle = network.get_submodule(cut.layer).register_forward_pre_hook(reach)
    try:
        for name, layer in layers.items():
            vars(layer)["forward"] = skipping(name, layer.forward)
        yield cut.images.filled(count, hidden.device)
    finally:
        handle.remove()
        for name, layer in layers.items():
            vars(layer).pop("forward", None)
            if before[name] is not None:
                vars(layer)["forward"] = before[name]


def _filled(value: Any, images: int, device: torch.device) -> Any:
    if isinstance(value, Zeros):
        return value.filled(images, device)
    if isinstance(value, Mapping):
        return {key: _filled(item, images, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_filled(item, images, device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _refuse_recomputed(layer: str) -> None:
    """Raise within what `torch.utils.checkpoint` calls again in backward, when nothing stands in any more."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == "_in_part" and frame.f_globals["__name__"] == PARTS):
        if frame.f_globals.get("__name__") == torch.utils.checkpoint.__name__:
            raise TrainingError(
                f"the network cannot begin at {layer} in training: it lies within what torch.utils.checkpoint "
                "computes again in backward; checkpoint each block by itself, or set cache.features=off"
            )
        frame = frame.f_back


PARTS = (
    "stagetune.models.whole"  # whose `_in_part` is where a call begins; what encloses that is called again with us
)
