"""What a run says of its settings, in words; pure functions."""

import shlex
import textwrap

import numpy as np

from stagetune.config.schema import Config
from stagetune.data.datamodule import StagedData
from stagetune.data.reading import Reading
from stagetune.losses.shared.classes import ClassLossSettings
from stagetune.run.data import loss_of, part_sizes
from stagetune.shipped import stagetune_command
from stagetune.tasks.staged_task import StagedTask
from stagetune.trust import foreign
from stagetune.visible import visible_name

NAMED = 8  # classes on one line
UNEVEN = 3  # times as many images
SPLIT_WORDS = {
    "images": "unseen images of known identities",
    "identities": "identities never seen in training",
    "groups": "unseen groups of known classes",
}


def next_words(config: Config, run_dir: str) -> str:
    """The command that uses what was trained."""
    trust = " --trust" if foreign({"model": {"network": getattr(config.model, "network", None)}}) else ""
    verb, images = ("predict", "IMAGE_OR_FOLDER") if config.task.name == "classifier" else ("verify", "A.jpg B.jpg")
    return f"{stagetune_command()} {verb} {shlex.quote(run_dir)} {images}{trust}"


def data_words(config: Config, data: StagedData) -> str:
    """What is learnt from and tested on, a line for each thing to know of it."""
    source = data.source
    counts = ", ".join(f"{part} {size:,}" for part, size in part_sizes(data.split).items())
    text = f"{source.name}, {len(source):,} images of {len(source.classes)} classes"
    if source.image_groups is not None:
        text += f" in {len(set(source.image_groups))} groups"
    text += f" at {data.image_size} px; {counts}"
    if folds := config.data.division().get("folds"):
        text += f"; the test is fold {config.data.division()['fold']} of {folds}"
    if config.task.name == "siamese" or config.data.split == "groups":
        text += f" ({SPLIT_WORDS[config.data.split]})"
    text += f"\n{class_words(config, data)}" if config.data.has_identities else ""
    notes = [textwrap.shorten(note, 300, placeholder=" ... (result.json lists all)") for note in source.notes]
    return "\n".join([text, *notes])


def reading_words(reading: Reading) -> str:
    """How many images were read and how long that took; empty for data that are no listed images."""
    if not reading.looked:
        return ""
    return f"{reading.read:,} images in {reading.seconds:.1f} s ({reading.known_before:,} known)"


def class_words(config: Config, data: StagedData) -> str:
    """How many images there are of each class, and, where they are few of some, what helps a classifier."""
    source = data.source
    counts = np.bincount(source.labels, minlength=len(source.classes))
    order = np.argsort(-counts, kind="stable").tolist()
    classes = [visible_name(name) for name in source.classes]
    most, least = counts[order[0]], counts[order[-1]]
    text = f"{classes[order[0]]} has {most:,} images, {classes[order[-1]]} {least:,}"
    if len(order) <= NAMED:
        text = ", ".join(f"{classes[i]} {counts[i]:,}" for i in order)
    if config.task.name == "classifier" and most >= UNEVEN * least:
        text += "; uneven: task.monitor=val/balanced_accuracy chooses by all classes alike"
    return text


def model_words(config: Config, task: StagedTask, parameters: str) -> str:
    """What is trained, from which features and weights, a line for each thing to know of it."""
    backbone = task.backbone
    text = f"{config.model.title()}, {parameters} parameters, {backbone.out_features:,} features"
    begin = [f"the feature cache {backbone.cannot_begin}"] if backbone.cannot_begin else []
    return "\n".join([f"{text}; weights {task.metadata.weights}", *backbone.said, *begin])


def training_words(config: Config, data: StagedData, *, precision: str, device: str) -> str:
    """In which precision, where, and of what a batch and a step are made."""
    asked = f" (asked: {config.precision})" if config.precision != precision else ""
    batch = f"{data.shape[0]} identities x {data.shape[1]} images" if data.shape else f"{data.batch_size} images"
    batch += " of balanced classes" if data.balanced else ""
    several = f" in each of {data.world_size} processes" if data.world_size > 1 else ""
    gather = f", a step every {config.accumulation} batches" if config.accumulation > 1 else ""
    if config.exact_accumulation:
        gather = f", encoded in {config.accumulation} parts"
    text = f"{precision}{asked} on {device}; batches of {batch}{several}{gather}"
    loss = loss_of(config, data)
    if isinstance(loss, ClassLossSettings) and loss.class_weights:
        low, high = min(loss.class_weights), max(loss.class_weights)
        text += f"\nloss {loss.name}, classes weighted {low:.3g} to {high:.3g}"
        if data.balanced:
            text += "; batches are balanced already, so that rare classes count twice"
    return text


def cache_words(config: Config, data: StagedData) -> str:
    """Of which images the outputs of a frozen prefix are computed once, and why not of all."""
    if config.cache.features == "off":
        return "off: a frozen prefix is computed in each epoch (cache=auto computes it once)"
    views, asked = data.parts["train"].distinct_views, config.cache.views
    if data.mixes:
        fewer = f"; cache.views={asked} makes its augmentations fewer, not faster" if views > 1 else ""
        return f"validation only: training mixes its images anew in each epoch (data.mixup, data.cutmix){fewer}"
    if asked > 1 and views == 1:
        return f"training and validation; cache.views={asked} has no effect without augmentation"
    if not views:
        return "validation only: training draws new augmentations in each epoch (cache.views=4 would repeat four)"
    return f"training and validation{f', {views} views of each image' if views > 1 else ''}"
