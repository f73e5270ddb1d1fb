"""Which tensors of a file are the weights of a network: decided by which unwrapping makes the names fit, pure."""

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torchvision.models.vision_transformer import interpolate_embeddings

# how classifiers are called, which a backbone does not have
CLASSIFIERS = ("fc", "_fc", "classifier", "head", "heads", "head_dist", "last_linear", "linear", "logits")
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # which torch puts among names
_AVERAGE = re.compile(r"(^|[._ ])ema([._ ]|$)", re.IGNORECASE)
_POSITIONS = "encoder.pos_embedding"  # of torchvision's ViT


@dataclass(frozen=True)
class Fit:
    """The weights of one network among all that a file holds.

    Args:
        state: those that the network has, by its own names.
        where: below which keys and prefix they stand, as `state_dict module.*`; empty if below none.
        left_out: what stands beside them and is no part of the network, such as `fc`.
        problems: in words, why they are not the network's; none if they are.
        resized: what was fitted to another image size, in words.
    """

    state: Mapping[str, Tensor]
    where: str = ""
    left_out: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    resized: str = ""


def fitting(content: Mapping[str, Any], own: Mapping[str, Tensor]) -> Fit:
    """The weights of a network in what a file holds, whatever they are wrapped into.

    Every state dict of the file is tried, whole and below every prefix that a name of the network stands behind. The
    one that has all of the network's tensors is taken; an average (`model_ema`) before what it is the average of.
    Beside them there may be a classifier that the network does not have, and what stands outside of the prefix.

    Args:
        content: a state dict, or a mapping that holds some at any depth.
        own: the network's own state dict, of which names and shapes matter.

    Returns:
        The weights; with `problems` where none fit (of the nearest), or where several different ones do.
    """
    tried = [
        _tried(key, state, prefix, own) for key, state in state_dicts(content) for prefix in _prefixes(state, own)
    ]
    if not tried:
        return Fit({}, problems=("it holds no state dict",))
    complete = [fit for lacking, fit in tried if not lacking]
    complete = [fit for fit in complete if _AVERAGE.search(fit.where)] or complete
    if not complete:
        return min(tried, key=lambda entry: entry[0])[1]
    first, *others = complete
    if any(not torch.equal(fit.state[name], first.state[name]) for fit in others for name in own):
        names = ", ".join(fit.where or "at its top" for fit in complete)
        return replace(first, problems=(f"it holds several networks that fit ({names}); save the one that is meant",))
    return first


def state_dicts(content: Any, key: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors, with the dotted keys below which it stands, at any depth.

    Args:
        content: whatever a file holds.
        key: the keys that led here.

    Yields:
        Keys, and the tensors by names without what wrappers of torch put among them (`_orig_mod.`).
    """
    if not isinstance(content, Mapping):
        return
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield key, {_plain(name): value for name, value in tensors.items()}
    for name, value in content.items():
        yield from state_dicts(value, f"{key}.{name}" if key else str(name))


def differences(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from being the network's own, in words: shapes, what is missing, what is unknown."""
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other_shape = [name for name in own if name in state and state[name].shape != own[name].shape]
    words = [f"{name} is {list(state[name].shape)} instead of {list(own[name].shape)}" for name in other_shape[:2]]
    words += [f"{len(missing)} missing such as {missing[0]}"] if missing else []
    words += [f"{len(unknown)} unknown such as {unknown[0]}"] if unknown else []
    return words


def _plain(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _prefixes(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """None, and all behind which a name of the network stands."""
    found = {"": None}
    for name in state:
        ends = [0, *(match.end() for match in re.finditer(r"\.", name))]
        found |= {name[:end]: None for end in ends if name[end:] in own}
    return list(found)


def _tried(key: str, state: Mapping[str, Tensor], prefix: str, own: Mapping[str, Tensor]) -> tuple[int, Fit]:
    """How many of the network's tensors are lacking here, and the fit."""
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    inside, resized = _positions_resized(inside, own)
    # old files lack BatchNorm's step counters, which nothing depends on
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    inside = counters | inside
    classifier = [name for name in inside if name not in own and name.partition(".")[0] in CLASSIFIERS]
    outside = [name for name in state if not name.startswith(prefix)]
    left_out = dict.fromkeys(name.partition(".")[0] for name in (*classifier, *outside))
    problems = differences({name: value for name, value in inside.items() if name not in classifier}, own)
    mine = {name: value for name, value in inside.items() if name in own}
    lacking = sum(name not in mine or mine[name].shape != own[name].shape for name in own)
    where = " ".join(part for part in (key, f"{prefix}*" if prefix else "") if part)
    return lacking, Fit(mine, where, tuple(left_out), tuple(problems), resized)


def _positions_resized(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """With a ViT's position embeddings as its image size has them, and what was done, in words."""
    if _POSITIONS not in state or _POSITIONS not in own or "conv_proj.weight" not in own:
        return state, ""
    shapes = state[_POSITIONS].shape, own[_POSITIONS].shape
    before, after = (isqrt(max(shape[1] - 1, 0)) if len(shape) == 3 else 0 for shape in shapes)
    if before == after or shapes[0][:2] != (1, before**2 + 1):  # a class token, and a square of patches
        return state, ""
    patch = own["conv_proj.weight"].shape[-1]
    fitted = interpolate_embeddings(after * patch, patch, OrderedDict(state))
    return dict(fitted), f"position embeddings resized from {before}x{before} to {after}x{after}"
