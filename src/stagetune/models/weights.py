"""The weights that training begins with: read from files of all the usual kinds, copied whole or refused."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from torch import Tensor, nn

from stagetune.artifacts import METADATA, CheckpointMetadata, RunDir
from stagetune.errors import WeightsError
from stagetune.models.fitting import differences, fitting, state_dicts
from stagetune.models.tensor_files import DamagedFile, read_tensors

LISTED = 3  # names that are said at most
_OBJECT = re.compile(r"GLOBAL (\S+)")  # as torch.load names the class that it does not build


@dataclass(frozen=True)
class Weights:
    """What a network can be given, with what has to be known of it.

    Args:
        used: what they are, in words for the screen and result.json.
        state: a state dict, or what holds one (see `fitting`); None: random initialisation.
        trained_on: by origin of images the classes that were seen in training.
        images: short keys of the contents of the images that were seen in training.
        may_differ: tensors that a backbone may have in another shape, in which case they stay random.
        head: of a checkpoint of this project the head's state dict.
        classes: of such a checkpoint the names of the classes in the order of the labels.
        config: of such a checkpoint the run's configuration.
        pruning: of such a checkpoint how its backbone was pruned, see `CheckpointMetadata`.
    """

    used: str
    state: Mapping[str, Any] | None
    trained_on: Mapping[str, list[str]] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    may_differ: tuple[str, ...] = ()
    head: Mapping[str, Tensor] = field(default_factory=dict)
    classes: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    pruning: Sequence[dict[str, Any]] = ()


def random_weights() -> Weights:
    """Those that the network is built with."""
    return Weights("random", None)


def file_weights(path: str | Path) -> Weights:
    """The weights of a file, or of a run.

    Args:
        path: a state dict in any usual wrapping (.pt, .pth, .ckpt, .safetensors), a checkpoint of this project, or
            the directory of a run, of which the best checkpoint is taken.

    Raises:
        WeightsError: for anything else, and for a file that holds more than tensors and plain values, which could run
            commands as it is read.
    """
    where, given = f"model.weights={path}", Path(path).expanduser()
    file = RunDir(given).best if given.is_dir() else given
    if not file.is_file():
        what = f"{file} does not exist" if given.is_dir() else f"does not exist (looked in {Path.cwd()})"
        raise WeightsError(
            f"{where}: {what}; give a file of weights, or the directory of a run that has a checkpoint"
        )
    try:
        content = read_tensors(file)
    except DamagedFile as error:
        raise WeightsError(f"{where}: {error}") from error
    except Exception as error:  # a foreign or torn file fails in one of many ways inside torch.load
        if (found := _OBJECT.search(str(error))) and isinstance(error, UnpicklingError):
            raise WeightsError(
                f"{where}: holds a Python object ({found[1]}), which could run commands as it is read; "
                "where it was made, save the weights alone: torch.save(model.state_dict(), 'weights.pt')"
            ) from error
        why = str(error).partition(". ")[0] or "it ends too early"  # torch goes on with the advice to trust the file
        raise WeightsError(
            f"{where}: cannot be read ({why}); give a state dict (.pt, .safetensors) or a checkpoint of this project"
        ) from error
    if isinstance(content, Mapping) and METADATA in content:
        return _of_checkpoint(str(path), content)
    if not any(state_dicts(content)):
        raise WeightsError(f"{where}: holds no state dict; expected names such as layer1.0.conv1.weight")
    return Weights(str(path), content)


def load_into(backbone: nn.Module, weights: Weights) -> Weights:
    """Copy the weights into the backbone, whole.

    Args:
        backbone: which keeps its own where `weights` are random.
        weights: may have a classifier beside what the backbone has, and a first convolution that `may_differ`.

    Returns:
        The weights, with all in their words that was left out, resized or stays random.

    Raises:
        WeightsError: where they do not fit, with what is missing, unknown or of another shape.
    """
    if weights.state is None:
        return weights
    own, content = backbone.state_dict(), weights.state
    fresh = [n for n in weights.may_differ if n in own and n in content and content[n].shape != own[n].shape]
    fit = fitting({**content, **{name: own[name] for name in fresh}}, own)
    if fit.problems:
        raise WeightsError(
            f"weights {_words(weights.used, fit.where)} do not fit this backbone: {'; '.join(fit.problems)}; "
            "choose the model and its settings that they were saved from"
        )
    for name, value in fit.state.items():
        if value.is_floating_point() != own[name].is_floating_point():
            raise WeightsError(
                f"weights {weights.used}: {name} is {value.dtype}, not {own[name].dtype}; save it as that"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise WeightsError(f"weights {weights.used}: {name} holds what is no finite number; take other weights")
    backbone.load_state_dict(fit.state)
    used = _words(weights.used, fit.where)
    used += f" without {_listed(fit.left_out)}" if fit.left_out else ""
    used += f", {fit.resized}" if fit.resized else ""
    used += f", but {', '.join(fresh)} random for this stem" if fresh else ""
    return replace(weights, used=used)


def load_head(head: nn.Module, weights: Weights, classes: Sequence[str] | None) -> None:
    """Copy the head of a run's checkpoint into this one (`model.head=keep`).

    Args:
        head: of the same shape.
        weights: those of a checkpoint of this project.
        classes: of a classifier, the names of the classes in the order of its labels; None for embeddings.

    Raises:
        WeightsError: where there is no head, where it was made for other classes or another order of them, or where a
            shape differs.
    """
    what, otherwise = f"model.head=keep: {weights.used}", "or train a new one (model.head=new)"
    if not weights.head:
        raise WeightsError(f"{what} holds no head; give the directory of a run as model.weights, {otherwise}")
    if classes is not None and list(classes) != list(weights.classes):
        pairs = enumerate(zip_longest(weights.classes, classes))
        i, (theirs, ours) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        how = "in another order" if sorted(classes) == sorted(weights.classes) else "others"
        raise WeightsError(
            f"{what} was trained on {len(weights.classes)} classes and the data have {len(classes)}, {how}: class "
            f"{i} is {theirs or 'none'} there and {ours or 'none'} here; give the data of that run, {otherwise}"
        )
    if problems := differences(weights.head, head.state_dict()):
        parts = "; ".join(problems)
        raise WeightsError(f"{what} has another head: {parts}; choose the task settings of that run, {otherwise}")
    head.load_state_dict(weights.head)


def _of_checkpoint(path: str, content: Mapping[str, Any]) -> Weights:
    try:
        metadata = CheckpointMetadata.of(content)
    except WeightsError as error:
        raise WeightsError(f"model.weights={path}: {error}") from error
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise WeightsError(f"model.weights={path}: holds no state dict; give a run's checkpoints/best.ckpt")
    return Weights(
        path,
        _below("backbone.", state),
        metadata.trained_on,
        frozenset(metadata.images),
        head=_below("head.", state),
        classes=metadata.classes,
        config=metadata.config,
        pruning=metadata.pruning,
    )


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _words(used: str, where: str) -> str:
    return f"{used} ({where})" if where else used


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"
