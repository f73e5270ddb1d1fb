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
    handed: list[FrameType] = []  # what computes again the call that gives `hidden`

    def reach(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal is_reached
        is_first, is_reached = not is_reached, True
        if not is_first:
            return None
        if is_learning and any(cut.source is None or frame in handed for frame in _recomputed()):
            raise TrainingError(
                f"the network cannot begin at {cut.layer} in training: it lies within what torch.utils.checkpoint "
                "computes again in backward; checkpoint each block by itself, or set cache.features=off"
            )
        return (hidden, *args[1:]) if cut.source is None else None

    def skipping(name: str, own: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            index = counts.get(name, 0)
            if is_reached or index >= len(cut.skipped[name]):
                return own(*args, **kwargs)
            counts[name] = index + 1
            if (name, index) == cut.source:
                handed.extend(_recomputed())
                return hidden
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
        handed.clear()
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


def _recomputed() -> list[FrameType]:
    """The calls of `torch.utils.checkpoint` that are going on within ours: in backward they call the network again,
    when nothing stands in any more."""
    found, frame = [], sys._getframe()
    while frame.f_back is not None and not (frame.f_code.co_name == "_in_part" and _module(frame) == PARTS):
        if _module(frame) == torch.utils.checkpoint.__name__:
            found.append(frame)
        frame = frame.f_back
    return found


def _module(frame: FrameType) -> Any:
    return frame.f_globals.get("__name__")


PARTS = "stagetune.models.whole"  # whose `_in_part` is where a call begins; what is around it calls all of it again
