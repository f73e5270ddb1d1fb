"""A network that runs itself, as blocks."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from stagetune.errors import ConfigError
from stagetune.models.backbone import IMAGENET, Backbone, Normal
from stagetune.models.course import IMAGES, Course, Cut, learn
from stagetune.models.replay import Stopped, beginning, stopping

LAYOUTS = ("channels_first", "channels_last", "tokens", "class_token")
TOLERANCE = 1e-5  # of the trial, relative to the features: another batch is computed in another order


class Whole(Backbone):
    """Images to features by a network's own forward, whose parameters keep their names.

    One run on random images shows its course, and each depth is tried out: where the features from there on are those
    of the whole run, it can begin.

    Args:
        network: takes normalised images [n, 3, h, w]; gives features [n, f], maps [n, f, h, w] or [n, h, w, f],
            or tokens [n, t, f].
        blocks: each block with the names of its layers and bare parameters, in forward order.
        image_size: pixels per side.
        normal: mean and std of images.
        layout: of the output, one of `LAYOUTS`, where its shape does not tell.
        network_key: see `Backbone`.
        said: see `Backbone`.

    Raises:
        ConfigError: for images that the network cannot take, and for an output that is no features.
    """

    layout: str | None
    _network: list[nn.Module]
    _cuts: dict[int, Cut]
    _memory_format: torch.memory_format

    def __init__(
        self,
        network: nn.Module,
        blocks: Mapping[str, Sequence[str]],
        *,
        image_size: int,
        normal: Normal = IMAGENET,
        layout: str | None = None,
        network_key: str = "",
        said: Sequence[str] = (),
    ) -> None:
        super().__init__()
        # the network's own registers, so that what is called conv1 there is called conv1 here
        self._parameters, self._modules, self._buffers = network._parameters, network._modules, network._buffers
        self._non_persistent_buffers_set = network._non_persistent_buffers_set
        self._normalise_by(normal)
        # not by setattr: a network may have a layer called blocks, which stays registered
        own = vars(self)
        own |= {"normal": normal, "network_key": network_key, "said": tuple(said)}
        own["blocks"] = {block: tuple(names) for block, names in blocks.items()}
        own["_network"] = [network]  # in a list, so that it is not registered again
        own["_memory_format"] = torch.channels_last
        own["layout"] = layout
        self.relearn(image_size)

    def relearn(self, image_size: int) -> None:
        own, network = vars(self), self._network[0]
        modes = [(layer, layer.training) for layer in network.modules()]
        self.eval()
        images = _images(image_size, self.stagetune_mean.device)
        course = self._learn(images)
        own["layout"] = _layout(course.output, type(network).__name__, self.layout)
        features = self._features(course.output).detach()
        own["out_features"] = features.shape[1]
        for layer, block in course.uncovered.items():  # so that freezing a block freezes its dropout, too
            own["blocks"][block] += (layer,)
        own["_cuts"] = {} if features.is_meta else course.cuts
        why_not = "" if features.is_meta else self._try_whole(images)
        own["_cuts"] = {} if why_not else self._tried(images, course)
        own["starts"] = (0,) if why_not else tuple(sorted({0, *self._cuts, len(self.blocks)}))
        labels = list(self.blocks)
        reasons = [f"cannot begin at {labels[depth]}: {reason}" for depth, reason in sorted(course.reasons.items())]
        own["cannot_begin"] = f"cannot be used: {why_not}" if why_not else "; ".join(reasons)
        for inner, mode in modes:
            inner.training = mode
        self.training = network.training

    def forward(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        end = len(self.blocks)
        stop = end if stop is None else stop
        for depth in {start, stop} - {end}:
            if depth not in self.starts:
                raise ValueError(f"this network cannot begin or stop at depth {depth}, only at {self.starts}")
        if start == stop:
            return inputs
        if start > 0 or stop < end:
            hidden: Tensor = self._in_part(inputs, self._cuts.get(start), self._cuts.get(stop))
            return hidden
        return self._features(self._network[0](self._given(inputs)))

    def train(self, mode: bool = True) -> "Whole":
        super().train(mode)
        self._network[0].training = self.training  # which a frozen layer keeps
        return self

    def extra_repr(self) -> str:
        return f"layout={self.layout}"  # also tells cached features apart

    def _given(self, images: Tensor) -> Tensor:
        return self._normalised(images).contiguous(memory_format=self._memory_format)

    def _features(self, output: Tensor) -> Tensor:
        """[n, f], of what the network gives."""
        if self.layout is None:
            return output
        if self.layout == "channels_first":
            return output.mean(dim=tuple(range(2, output.ndim)))
        if self.layout == "class_token":
            return output[:, 0]
        return output.mean(dim=tuple(range(1, output.ndim - 1)))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # what stands in is made anew in each call
    def _in_part(self, inputs: Tensor, start: Cut | None, stop: Cut | None) -> Tensor:
        network = self._network[0]
        with ExitStack() as stack:
            if start is None:
                images = self._given(inputs)
            elif tuple(inputs.shape[1:]) == start.shape:
                images = stack.enter_context(beginning(network, start, inputs))
            else:
                raise ValueError(f"{start.layer} takes [n, {str([*start.shape])[1:]}, got {[*inputs.shape]}")
            if stop is not None:
                stack.enter_context(stopping(network, stop))
            try:
                return self._features(network(images))
            except Stopped as stopped:
                return stopped.hidden

    def _learn(self, images: Tensor) -> Course:
        """The course of the network, in the memory format that is faster if its code bears it."""
        network = self._network[0]
        try:
            return learn(network, self.blocks, self._given(images))
        except Exception:
            vars(self)["_memory_format"] = torch.contiguous_format
        try:
            return learn(network, self.blocks, self._given(images))
        except Exception as error:  # somebody's code
            what = f"{type(network).__name__} cannot take images {list(images.shape)}"
            raise ConfigError([f"model: {what}: {type(error).__name__}: {error}"]) from error

    def _try_whole(self, images: Tensor) -> str:
        """Why an image's features cannot be kept, in words; empty if they can."""
        with torch.no_grad():
            features = self._run(images)
            if not _is_close(self._run(images, seed=1), features):
                return "an image has other features each time"
            if not _is_close(self._run(images[:1]), features[:1]):
                return "an image's features depend on the other images of its batch"
        return ""

    def _tried(self, images: Tensor, course: Course) -> dict[int, Cut]:
        """The cuts from which the features are those of the whole run, also for one image, also in training."""
        good = {}
        for depth, cut in course.cuts.items():
            try:
                reason = self._why_not(images, cut)
            except Exception as error:  # somebody's code, which is given zeros
                reason = f"{type(error).__name__}: {error}"
            if reason:
                course.reasons[depth] = reason
            else:
                good[depth] = cut
        return good

    def _why_not(self, images: Tensor, cut: Cut) -> str:
        hidden = self._run(images, stop=cut)
        if not _is_close(self._run(images[:1], stop=cut), hidden[:1]):
            return "what comes before it depends on the other images of a batch"
        with torch.enable_grad():
            again = self._run(hidden[:1], start=cut)
        if not _is_close(again, self._run(images)[:1]):
            return "it gives other features when it begins there"
        # layers that are frozen stay in eval mode while the code between them is in training
        if not _is_close(self._run(images, stop=cut, is_training=True), hidden):
            return "the code before it does otherwise in training"
        if not _is_close(self._run(hidden, start=cut, is_training=True), self._run(images, is_training=True)):
            return "the code of the network does otherwise in training"
        return ""

    def _run(
        self,
        inputs: Tensor,
        *,
        start: Cut | None = None,
        stop: Cut | None = None,
        is_training: bool = False,
        seed: int = 0,
    ) -> Tensor:
        """All of it or a part, by the same random numbers; `is_training` is the mode of its own code alone."""
        network = self._network[0]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network.training = self.training = is_training
            try:
                whole = start is None and stop is None
                made: Tensor = network(self._given(inputs)) if whole else self._in_part(inputs, start, stop)
                return (self._features(made) if whole else made).detach()
            finally:
                network.training = self.training = False


class Plain(nn.Module):
    """The features of a `Whole`, whose network is a layer here like any other.

    For what looks layers up by their names, such as torch.export: where the network has a layer called `blocks`, a
    `Whole` answers to it with its own blocks.
    """

    def __init__(self, whole: Whole) -> None:
        super().__init__()
        self.network, self._whole = whole._network[0], [whole]  # in a list, so that it is not registered

    def forward(self, images: Tensor) -> Tensor:
        whole = self._whole[0]
        return whole._features(self.network(whole._given(images)))


def _is_close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= TOLERANCE * other.abs().max())


def _images(size: int, device: torch.device) -> Tensor:
    """Random pixels, of a generator of their own."""
    if device.type == "meta":
        return torch.empty(IMAGES, 3, size, size, dtype=torch.uint8, device=device)
    shape, generator = (IMAGES, 3, size, size), torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device="cpu").to(device)


def _layout(output: Any, name: str, given: str | None) -> str | None:
    """Where the features are: by the shape, as a square image's map has two equal sides, or as it is said."""
    shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(shape, list) or not 2 <= len(shape) <= 4:
        raise ConfigError(
            [f"model: {name} must give features [n, f], maps [n, f, h, w] or tokens [n, t, f], got {shape}"]
        )
    takes = {2: (), 3: LAYOUTS, 4: LAYOUTS[:2]}[len(shape)]
    if given and given not in takes:
        valid = f"choose {' or '.join(takes)}" if takes else "leave it out"
        raise ConfigError([f"model.layout={given}: does not fit {shape} of {name}; {valid}"])
    if given or len(shape) == 2:
        return given
    is_first, is_last = len(shape) == 4 and shape[2] == shape[3], len(shape) == 4 and shape[1] == shape[2]
    if is_first == is_last:
        raise ConfigError(
            [f"model.layout: is missing, and {shape} of {name} does not tell it; one of {', '.join(LAYOUTS)}"]
        )
    return "channels_first" if is_first else "channels_last"
