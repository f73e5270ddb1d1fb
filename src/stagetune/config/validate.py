"""A composed configuration, checked and typed: every problem is found before the first is reported."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from stagetune.config.schema import BLOCKS, LOSSES, METRICS, Composed, Config, ModelConfig
from stagetune.errors import ConfigError, ScheduleError, did_you_mean
from stagetune.schedule.load import ScheduleSource, load_schedule
from stagetune.schedule.model import block_label
from stagetune.schedule.spec import Schedule
from stagetune.typed import typed

# Arguments of lightning.pytorch.Trainer that a person may set; all others are decided by the framework.
TRAINER = (
    "accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm",
    "limit_train_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic",
    "benchmark", "log_every_n_steps", "profiler", "detect_anomaly",
)  # fmt: skip
TRAINER_OWNED = {
    "max_epochs": "the schedule's epochs",
    "min_epochs": "the schedule's epochs",
    "max_steps": "the schedule's epochs",
    "precision": "precision=",
    "accumulate_grad_batches": "accumulation=",
    "logger": "logger=",
    "default_root_dir": "hydra.run.dir=",
}

# data sets of one's own: the key that says where, what is expected there, and an example
READ_FROM = {
    "image_folder": ("root", "folder that holds one folder per class", "path/to/images"),
    "identity_csv": ("csv", "table with columns path and identity", "path/to/images.csv"),
    "pairs": ("pairs", "table with columns a, b and is_same", "path/to/pairs.csv"),
    "omniglot": ("root", "folder that holds images_background or omniglot-py", "path/to/data"),
    "lfw": ("root", "folder that holds lfw-py", "path/to/data"),
}

BESIDE_FILE = ("file", "monitor", "mode")  # what holds of schedule.* with a schedule file


def validate(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The typed configuration of plain nested `values`; raises `ConfigError` with all problems.

    `overrides` are the words of the command line that led to the values: one without effect is a problem, too.
    """
    config, problems = _read(values)
    if config is not None:
        given = config.schedule
        if isinstance(given, ScheduleSource) and given.file is not None:
            problems.extend(_without_effect(given.file, overrides))
        problems.extend(_rules(config))
        try:
            config.schedule = _schedule(config)
        except ScheduleError as error:
            where = "schedule.file: " if getattr(given, "file", None) else ""
            problems.extend(f"{where}{problem}" for problem in error.problems)
    if problems or config is None:
        raise ConfigError(problems)
    config.schedule.monitor = config.schedule.monitor or config.task.monitor
    return config


def read_config(values: Mapping[str, Any]) -> Config:
    """The configuration that a run has kept, with the types of its values alone checked; raises `ConfigError`."""
    config, problems = _read(values)
    if config is None:
        raise ConfigError(problems)
    config.schedule = load_schedule(config.schedule)
    return config


def _read(values: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    problems: list[str] = []
    if "experiment" in values:
        values = {key: value for key, value in values.items() if key != "experiment"}
        problems.append("conf/experiment: a file there lacks its first line, # @package _global_; add it")
    composed = typed(Composed, values, "", problems)
    if problems:
        return None, problems
    return Config(**{entry.name: getattr(composed, entry.name) for entry in fields(composed)}), problems


def _schedule(config: Config) -> Schedule:
    """The stages that are trained; a file stands for those of the group that was chosen."""
    model, given = config.model, config.schedule
    own = isinstance(model.blocks, list | Mapping) and model.arch == "own" and model.blocks
    if isinstance(given, ScheduleSource) and given.file is not None:
        given = ScheduleSource(**{key: getattr(given, key) for key in BESIDE_FILE})
    blocks = [block_label(str(name)) for name in model.blocks] if own else BLOCKS
    return load_schedule(given, blocks=blocks, metrics=METRICS[config.task.name])


def _rules(config: Config) -> Iterator[str]:
    """What the settings demand of each other."""
    task, data, model = config.task, config.data, config.model
    if config.loss.name not in LOSSES[task.name]:
        fitting = ", ".join(f"loss={name}" for name in LOSSES[task.name])
        yield f"loss={config.loss.name}: does not fit task={task.name}; choose {fitting}"
    if task.monitor not in METRICS[task.name]:
        near = did_you_mean(task.monitor, METRICS[task.name])
        yield f"task.monitor={task.monitor}: no such metric of {task.name}; {near}"
    if data.val + data.test >= 0.95:
        yield f"data.val={data.val} and data.test={data.test}: leave nothing to train on; keep their sum below 0.95"
    reads, kind, example = READ_FROM.get(data.name, (None, "", ""))
    for key, name in {key: name for name, (key, _, _) in reversed(READ_FROM.items())}.items():
        value = getattr(data, key)
        if key != reads and value is not None:
            yield f"data.{key}={value}: data={data.name} does not read it; add data={name}"
        elif key == reads and value is None:
            yield f"data.{key}: is missing; give the {kind}, data.{key}={example}"
        elif key == reads and not _is_there(value, kind):
            yield f"data.{key}={value}: is not there, seen from {Path.cwd()}; give the {kind}"
    if data.name in ("pairs", "lfw"):
        if task.name != "siamese":
            yield f"data={data.name}: task={task.name} needs classes, which pairs do not have; use task=siamese"
        elif config.loss.name not in ("contrastive", "bce"):
            yield f"data={data.name}: loss={config.loss.name} needs identities; use loss=contrastive or loss=bce"
        if data.split != "identities":
            yield f"data.split={data.split}: data={data.name} is split by identities; use data.split=identities"
    if data.identity_depth != 1 and data.name != "image_folder":
        yield f"data.identity_depth={data.identity_depth}: data={data.name} has no folders; add data=image_folder"
    if data.groups is not None and data.name not in ("glyphs", "omniglot"):
        yield f"data.groups: chooses scripts of data=glyphs or alphabets of data=omniglot, not of data={data.name}"
    if (data.val_groups or data.test_groups) and data.name == "digits":
        yield "data.val_groups and data.test_groups: data=digits has no groups; glyphs, folders and tables may have"
    if (data.val_groups or data.test_groups) and data.split != "identities":
        yield "data.val_groups and data.test_groups: take effect only with data.split=identities; add it"
    for key in ("spliced", "turned"):
        if getattr(data, key) and (task.name == "classifier" or data.name in ("pairs", "lfw")):
            yield f"data.{key}: makes identities of {key} images; it takes task=siamese and data with identities"
    if data.spliced and not data.centred:
        yield f"data.spliced={data.spliced}: lays halves of centred drawings together; add data.centred=true"
    if task.name == "classifier" and data.split == "identities":
        yield "data.split=identities: a classifier cannot name unseen classes; use data.split=images or task=siamese"
    if model.weights not in ("auto", "imagenet", "random") and not Path(model.weights).is_file():
        yield f"model.weights={model.weights}: neither auto, imagenet or random nor a file (looked in {Path.cwd()})"
    if model.arch.startswith("vgg") and model.stem != "imagenet":
        yield f"model.stem={model.stem}: {model.arch} has no other stem; use model.stem=imagenet"
    if model.pooled is not None and model.network:
        yield "model.pooled: a network of one's own pools its features itself; leave it out"
    elif model.pooled is not None:
        last = BLOCKS[-1]
        if last not in model.pooled or model.pooled != [block for block in BLOCKS if block in model.pooled]:
            yield f"model.pooled={model.pooled}: takes blocks in forward order up to {last}, of {', '.join(BLOCKS)}"
    if config.precision == "fp16" and config.trainer.get("accelerator") == "cpu":
        yield "precision=fp16: a CPU cannot train in fp16; use precision=bf16"
    if config.precision == "fp16" and config.trainer.get("gradient_clip_val") and config.optimizer.get("fused"):
        yield "precision=fp16: a fused optimizer cannot clip scaled gradients; add optimizer.fused=false"
    if "_target_" not in config.optimizer:
        yield "optimizer._target_: is missing; choose optimizer=adamw or optimizer=sgd, or name a torch.optim class"
    if "lr" in config.optimizer:
        yield "optimizer.lr: learning rates belong to the stages; set lr in schedule.stages"
    for key in config.trainer:
        if owner := TRAINER_OWNED.get(key):
            yield f"trainer.{key}: is decided by {owner}; remove it"
        elif key not in TRAINER:
            yield f"trainer.{key}: cannot be set; {did_you_mean(key, TRAINER, 'trainer.')}"
    yield from _process_rules(config.trainer)
    if config.logger.lightning is not None and "_target_" not in config.logger.lightning:
        yield "logger.lightning._target_: is missing; choose logger=tensorboard, or name a Lightning logger"
    yield from _network_rules(model)
    if config.came_frozen != "hold" and model.arch != "own":
        yield f"came_frozen={config.came_frozen}: nothing of model={model.arch} comes frozen; it goes with model=own"


def _without_effect(file: str, overrides: Sequence[str]) -> Iterator[str]:
    """Overrides of a schedule for which a file stands."""
    for override in overrides:
        group, _, key = override.partition("=")[0].lstrip("+~").partition(".")
        if group == "schedule" and key not in BESIDE_FILE:
            yield f"{override}: has no effect beside schedule.file={file}; leave it out, or say it in the file"


def _is_there(where: str, kind: str) -> bool:
    path = Path(where).expanduser()
    return path.is_dir() if kind.startswith("folder") else path.is_file()


def _network_rules(model: ModelConfig) -> Iterator[str]:
    """What an own network needs, and what others do not take."""
    if model.arch != "own":
        if model.network or model.blocks:
            yield f"model.network and model.blocks: model={model.arch} has its own; choose model=own"
        return
    if not model.network or not model.network.get("_target_"):
        yield "model.network._target_: is missing; name the class of your network, my_package.MyNetwork"
    if not model.blocks or not isinstance(model.blocks, list | Mapping):
        yield "model.blocks: is missing; list the network's layers in forward order, model.blocks=[conv1,layer1]"
    if model.weights == "imagenet":
        yield "model.weights=imagenet: an own network loads its own; use auto (as its class builds it), or a file"


def _process_rules(trainer: Mapping[str, Any]) -> Iterator[str]:
    """What a run on several devices needs."""
    devices, strategy = trainer.get("devices", 1), trainer.get("strategy", "auto")
    if strategy == "fsdp":
        yield "trainer.strategy=fsdp: FSDP binds parameters together that stages free singly; use trainer=ddp"
    elif strategy not in ("auto", "ddp"):
        yield f"trainer.strategy={strategy}: is not supported; use trainer=ddp, or leave it out"
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        yield f"trainer.devices={devices}: expects a whole number of at least 1"
    elif devices > 1 and strategy == "auto":
        yield f"trainer.devices={devices}: several devices train together with trainer=ddp; add it"
