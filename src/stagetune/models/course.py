"""The course of a network's own forward: which layers it calls in which order, and where it can be cut in two.

Learned from one run that is only watched. Depth k is where the first layer of block k is called, with one tensor; the
network can be cut there if all that comes later depends on the images through that tensor alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parameter import UninitializedParameter

_Edge = tuple[Node, int]  # what computed a tensor, and which of its results the tensor is
IMAGES = 2  # of the run: enough to tell the side of a shape that counts them


@dataclass(frozen=True)
class Zeros:
    """What a call that is skipped gives in place of its tensor.

    Attributes:
        shape: of the tensor; the first side is per image where `per_image`.
        per_image: whether the first side counts images.
        dtype: of the tensor.
        is_written: whether the network writes to it afterwards.
    """

    shape: tuple[int, ...]
    per_image: bool
    dtype: torch.dtype
    is_written: bool

    def filled(self, images: int, device: torch.device) -> Tensor:
        shape = (self.shape[0] * images, *self.shape[1:]) if self.per_image else self.shape
        if self.is_written:
            return torch.zeros(shape, dtype=self.dtype, device=device)
        return torch.zeros((), dtype=self.dtype, device=device).expand(shape)


@dataclass(frozen=True)
class Cut:
    """A depth at which a network can be stopped and begun again.

    Attributes:
        layer: the first layer of the block that is called.
        shape: of its input, for one image.
        memory_format: of its input.
        is_written: whether the network writes to it.
        source: the skipped call that gives it, as a layer's name and which of its calls; None if it is computed from
            what such calls give.
        skipped: the layers that are called before, by name, with what each of their calls gives.
        images: in place of the images.
    """

    layer: str
    shape: tuple[int, ...]
    memory_format: torch.memory_format
    is_written: bool
    source: tuple[str, int] | None
    skipped: Mapping[str, Sequence[Any]]
    images: Zeros


@dataclass
class Course:
    """What the run showed.

    Attributes:
        output: of the network.
        cuts: by depth, those that its structure allows.
        reasons: by depth, why it cannot be cut there.
        uncovered: layers without parameters that stand in no block, each with the block in whose part they run.
    """

    output: Any
    cuts: dict[int, Cut] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    uncovered: dict[str, str] = field(default_factory=dict)


def learn(network: nn.Module, blocks: Mapping[str, Sequence[str]], images: Tensor) -> Course:
    """Run the network once and watch it.

    Args:
        network: in eval mode.
        blocks: its blocks in forward order, with the names of their layers and bare parameters.
        images: [2, 3, h, w], as the network takes them.

    Returns:
        Its course.
    """
    source = images.detach().clone().requires_grad_()
    watch = _Watch(network, blocks, source)
    shaped = [p for p in network.parameters() if not isinstance(p, UninitializedParameter)]  # not yet of a lazy layer
    trainable = [(p, p.requires_grad) for p in shaped if p.is_floating_point()]
    try:
        for parameter, _ in trainable:
            parameter.requires_grad_()
        with torch.enable_grad(), watch.hooks():
            given = source.clone()
            output = network(given)
    finally:
        for parameter, required in trainable:
            parameter.requires_grad_(required)
    course = Course(output, uncovered=watch.uncovered())
    zeros = Zeros((1, *images.shape[1:]), True, images.dtype, given._version > 0)
    for depth in range(1, len(blocks)):
        reason = watch.why_not(depth, output)
        if reason:
            course.reasons[depth] = reason
        else:
            course.cuts[depth] = watch.cut(depth, zeros)
    return course


@dataclass(eq=False)
class _Call:
    module: nn.Module
    parent: "_Call | None"
    segment: int  # the block in whose part of the course it began
    ended: bool = False
    output: Any = None
    made_by: list[_Edge] = field(default_factory=list)  # of the output, as it was given
    versions: list[int] = field(default_factory=list)


@dataclass(eq=False)
class _Entry:
    """The first call of a block's layers."""

    call: _Call
    order: int  # among all calls
    before: list[_Call]  # the calls that had ended, in order of their beginning
    given: Any  # its first argument
    made_by: list[_Edge]
    version: int


class _Watch:
    """Hooks on every layer for one run, and what they saw."""

    def __init__(self, network: nn.Module, blocks: Mapping[str, Sequence[str]], source: Tensor) -> None:
        self.network, self.labels, self.source = network, list(blocks), source
        self.names = {id(module): name for name, module in network.named_modules()}
        self.owner: dict[int, int] = {}  # the block of each layer and parameter, as objects
        parts = {**dict(network.named_modules()), **dict(network.named_parameters())}
        for index, members in enumerate(blocks.values()):
            for member in (parts[name] for name in members):
                whole = [*member.modules(), *member.parameters()] if isinstance(member, nn.Module) else [member]
                for part in whole:
                    self.owner.setdefault(id(part), index)
        self.calls: list[_Call] = []
        self.entries: dict[int, _Entry] = {}
        self._open: list[_Call] = []
        self._known: dict[Node, bool] = {}  # whether it depends on the images

    @contextmanager
    def hooks(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.network.modules():
                if module is not self.network:
                    stack.callback(module.register_forward_pre_hook(self._began, with_kwargs=True).remove)
                    stack.callback(module.register_forward_hook(self._ended).remove)
            yield

    def _began(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = _Call(module, self._open[-1] if self._open else None, max(self.entries, default=0))
        self.calls.append(call)
        self._open.append(call)
        block = self.owner.get(id(module), 0)
        if block == 0 or block in self.entries:
            return None
        call.segment = max(call.segment, block)
        before = [other for other in self.calls if other.ended]
        given = args[0] if args else None
        made_by, changed = _edges(given), None
        if isinstance(given, Tensor) and made_by and _giver(before, given) is None:
            # with a node of its own it is told apart from the same tensor where other layers read it
            own = given.view_as(given)
            made_by, changed = _edges(own), ((own, *args[1:]), kwargs)
        version = given._version if isinstance(given, Tensor) else 0
        self.entries[block] = _Entry(call, len(self.calls), before, given, made_by, version)
        return changed

    def _ended(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self._open.pop()
        call.ended, call.output, call.made_by = True, output, _edges(output)
        call.versions = [tensor._version for tensor in _tensors(output)]

    def uncovered(self) -> dict[str, str]:
        found: dict[int, _Call] = {}
        for call in self.calls:
            is_bare = id(call.module) not in self.owner and not any(True for _ in call.module.parameters())
            if is_bare and not (call.parent and id(call.parent.module) in found):
                found.setdefault(id(call.module), call)  # one that runs in several parts goes with the first
        return {self.names[key]: self.labels[call.segment] for key, call in found.items() if self.labels}

    def why_not(self, depth: int, output: Any) -> str:
        """What in the structure forbids the cut, in words; empty if nothing does."""
        entry = self.entries.get(depth)
        if entry is None:
            return "none of its layers is called"
        late = [d for d in range(1, depth) if d not in self.entries or self.entries[d].order > entry.order]
        if late:
            return f"its layers run before those of {self.labels[late[-1]]}"
        hidden = entry.given
        if not isinstance(hidden, Tensor) or hidden.ndim == 0 or hidden.shape[0] != self.source.shape[0]:
            return "its input is not one tensor with a row for each image"
        if not entry.made_by:
            return "how its input depends on the images cannot be followed"
        for leaf in _leaves(entry.made_by):
            if self.owner.get(id(leaf), 0) >= depth:
                name = next(name for name, parameter in self.network.named_parameters() if parameter is leaf)
                return f"what comes before it reads {name}, which stands in {self.labels[self.owner[id(leaf)]]}"
        if any(leaf is self.source for leaf in _leaves(_edges(output), entry.made_by)):
            return "later layers also read what comes before it"
        return ""

    def cut(self, depth: int, images: Zeros) -> Cut:
        entry = self.entries[depth]
        ended = set(entry.before)
        giver, handed = _giver(entry.before, entry.given), None
        skipped: dict[str, list[Any]] = {}
        for call in entry.before:
            if not self._depends(call):
                continue  # on shapes alone, as positions do: it is computed
            if not any(above in ended and self._depends(above) for above in _above(call)):
                calls = skipped.setdefault(self.names[id(call.module)], [])
                if call is giver:
                    handed = self.names[id(call.module)], len(calls)
                calls.append(_stand_in(call.output, iter(call.versions)))
        hidden: Tensor = entry.given
        is_plain = hidden.ndim != 4 or hidden.is_contiguous()
        is_last = not is_plain and hidden.is_contiguous(memory_format=torch.channels_last)
        return Cut(
            layer=self.names[id(entry.call.module)],
            shape=tuple(hidden.shape[1:]),
            memory_format=torch.channels_last if is_last else torch.contiguous_format,
            is_written=hidden._version > entry.version,
            source=handed,
            skipped=skipped,
            images=images,
        )

    def _depends(self, call: _Call) -> bool:
        """Whether what a call gave depends on the images."""
        for node, _ in call.made_by:
            waiting = [node]
            while waiting:
                current = waiting[-1]
                below = [inner for inner, _ in current.next_functions if inner is not None]
                unknown = [inner for inner in below if inner not in self._known]
                if current not in self._known and unknown:
                    waiting += unknown
                    continue
                is_source = getattr(current, "variable", None) is self.source
                self._known.setdefault(current, is_source or any(self._known[inner] for inner in below))
                waiting.pop()
        return any(self._known[node] for node, _ in call.made_by)


def _giver(calls: list[_Call], tensor: Any) -> _Call | None:
    """The last call that gave this very tensor; of calls within each other the outermost."""
    found = [call for call in calls if call.output is tensor]
    outer = [call for call in found if not any(above in found for above in _above(call))]
    return outer[-1] if outer else None


def _above(call: _Call) -> Iterator[_Call]:
    while call.parent is not None:
        call = call.parent
        yield call


def _leaves(edges: Sequence[_Edge], without: Sequence[_Edge] = ()) -> Iterator[Tensor]:
    """The tensors that a result was computed from in the first place; `without` those behind some other result."""
    waiting, seen, barred = list(edges), set(), set(without)
    while waiting:
        edge = waiting.pop()
        if edge in barred or edge in seen:
            continue
        seen.add(edge)
        leaf = getattr(edge[0], "variable", None)
        if leaf is not None:
            yield leaf
        waiting += [(node, index) for node, index in edge[0].next_functions if node is not None]


def _edges(value: Any) -> list[_Edge]:
    return [(tensor.grad_fn, tensor.output_nr) for tensor in _tensors(value) if tensor.grad_fn is not None]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _stand_in(value: Any, versions: Iterator[int]) -> Any:
    """The same with `Zeros` for its tensors, of which the versions are given as they were when they came."""
    if isinstance(value, Tensor):
        first, *rest = value.shape or (0,)
        per_image = value.ndim > 0 and first % IMAGES == 0
        shape = (first // IMAGES, *rest) if per_image else tuple(value.shape)
        return Zeros(shape, per_image, value.dtype, value._version > next(versions))
    if isinstance(value, dict):
        return {key: _stand_in(item, versions) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_stand_in(item, versions) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value
