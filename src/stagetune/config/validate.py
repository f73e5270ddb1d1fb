"""A composed configuration, checked and typed: every problem is found before the first is reported."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from stagetune.config.schema import BLOCKS, HEAD, LOSSES, METRICS, SELECTORS, Config, ScheduleConfig, StageConfig
from stagetune.errors import ConfigError, did_you_mean

# Arguments of lightning.pytorch.Trainer that a person may set; all others are decided by the framework.
TRAINER = (
    "accelerator", "devices", "limit_train_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic",
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


def validate(values: Mapping[str, Any]) -> Config:
    """The typed configuration of plain nested `values`; raises `ConfigError` with all problems."""
    problems: list[str] = []
    config = _convert(Config, values, "", problems)
    if not problems:
        problems.extend(_rules(config))
    if problems:
        raise ConfigError(problems)
    assert isinstance(config, Config)
    return config


def key_problem(key: str, kind: Any = Config, path: str = "") -> str | None:
    """What is wrong with the dotted `key`, such as `data.image_sizee`; None if it names a setting."""
    first, _, rest = key.partition(".")
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if first not in hints:
            where = f" in {path}" if path else ""
            return f"{_join(path, first)}: no such key{where}; {did_you_mean(first, list(hints), _dot(path))}"
        kind = hints[first]
    elif get_origin(kind) is list:
        kind = get_args(kind)[0]
    else:  # a free mapping, or a plain value below which nothing can stand
        return None
    return key_problem(rest, kind, _join(path, first)) if rest else None


def _convert(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    """`value` as the annotated type `kind`; what does not fit is added to `problems`."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        kind = next(option for option in get_args(kind) if option is not types.NoneType)
    if is_dataclass(kind):
        return _convert_mapping(kind, value, path, problems)
    if get_origin(kind) is list:
        if not isinstance(value, list | tuple):
            problems.append(f"{path}: expects a list, got {value!r}")
            return value
        (item,) = get_args(kind)
        if item is Any:
            return list(value)
        return [_convert(item, entry, f"{path}[{i}]", problems) for i, entry in enumerate(value)]
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            problems.append(f"{path}: expects keys and values, got {value!r}")
            return value
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        problems.append(f"{path}: expects {words[kind]}, got {value!r}")
    return value


def _convert_mapping(kind: Any, value: Any, path: str, problems: list[str]) -> Any:
    if not isinstance(value, Mapping):
        problems.append(f"{path or 'configuration'}: expects keys and values, got {value!r}")
        return value
    hints = get_type_hints(kind)
    for key in value:
        if problem := key_problem(str(key), kind, path):
            problems.append(problem)
    converted = {}
    for entry in fields(kind):
        if entry.name not in value:
            continue
        where, before = _join(path, entry.name), len(problems)
        item = _convert(hints[entry.name], value[entry.name], where, problems)
        converted[entry.name] = item
        if len(problems) > before or item is None:
            continue
        choices, allowed = entry.metadata.get("choices"), entry.metadata.get("range")
        if choices and item not in choices:
            problems.append(f"{where}={item}: no such choice; {did_you_mean(item, choices)}")
        if allowed and not allowed[0] <= item <= allowed[1]:
            upper = "" if allowed[1] == float("inf") else f" and at most {allowed[1]}"
            problems.append(f"{where}={item}: must be at least {allowed[0]}{upper}")
    return kind(**converted)


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
    if data.name == "image_folder":
        if data.root is None:
            yield "data.root: is missing; give the folder that holds one folder per class, data.root=path/to/images"
        elif not Path(data.root).expanduser().is_dir():
            yield f"data.root={data.root}: no such folder below {Path.cwd()}; give one with a folder per class"
    elif data.root is not None:
        yield f"data.root={data.root}: data={data.name} reads no folder; add data=image_folder"
    for key in ("groups", "val_groups", "test_groups"):
        if getattr(data, key) is not None and data.name != "glyphs":
            yield f"data.{key}: data={data.name} has no groups; only data=glyphs has"
    if (data.val_groups or data.test_groups) and data.split != "identities":
        yield "data.val_groups and data.test_groups: take effect only with data.split=identities; add it"
    if task.name == "classifier" and data.split == "identities":
        yield "data.split=identities: a classifier cannot name unseen classes; use data.split=images or task=siamese"
    if model.weights not in ("auto", "imagenet", "random") and not Path(model.weights).is_file():
        yield f"model.weights={model.weights}: neither auto, imagenet or random nor a file (looked in {Path.cwd()})"
    if model.arch.startswith("vgg") and model.stem != "imagenet":
        yield f"model.stem={model.stem}: {model.arch} has no other stem; use model.stem=imagenet"
    if config.precision == "fp16" and config.trainer.get("accelerator") == "cpu":
        yield "precision=fp16: a CPU cannot train in fp16; use precision=bf16"
    if "_target_" not in config.optimizer:
        yield "optimizer._target_: is missing; choose optimizer=adamw or optimizer=sgd, or name a torch.optim class"
    if "lr" in config.optimizer:
        yield "optimizer.lr: learning rates belong to the stages; set lr in schedule.stages"
    for key in config.trainer:
        if owner := TRAINER_OWNED.get(key):
            yield f"trainer.{key}: is decided by {owner}; remove it"
        elif key not in TRAINER:
            yield f"trainer.{key}: cannot be set; {did_you_mean(key, TRAINER, 'trainer.')}"
    if config.trainer.get("devices", 1) != 1:
        yield f"trainer.devices={config.trainer['devices']}: a run trains on one device; set trainer.devices=1"
    if config.logger.lightning is not None and "_target_" not in config.logger.lightning:
        yield "logger.lightning._target_: is missing; choose logger=tensorboard, or name a Lightning logger"
    yield from _schedule_rules(config.schedule)


def _schedule_rules(schedule: ScheduleConfig) -> Iterator[str]:
    if not schedule.stages:
        yield "schedule.stages: is empty; choose schedule=staged, or list at least one stage"
    valid = (*BLOCKS, HEAD, "all")
    names: set[str] = set()
    opened: set[str] = set()  # blocks; what finer selectors open is known only with the model
    for i, stage in enumerate(schedule.stages):
        where = f"schedule.stages[{i}]"
        if not stage.name:
            yield f"{where}.name: is missing; every stage has a name"
        elif stage.name in names:
            yield f"{where}.name={stage.name}: stands twice; every stage has a name of its own"
        names.add(stage.name)
        for key, selectors in (("open", stage.open), ("freeze", stage.freeze)):
            for selector in selectors:
                if isinstance(selector, str) and selector not in valid:
                    yield f"{where}.{key}: no block named {selector}; {did_you_mean(selector, valid)}"
                elif isinstance(selector, Mapping):
                    for kind in selector:
                        if kind not in SELECTORS:
                            yield f"{where}.{key}: no selector named {kind}; {did_you_mean(str(kind), SELECTORS)}"
        yield from _idle(where, stage, opened)
        if stage.lr is None and stage.lr_range is None and not stage.lrs:
            yield f"{where} ({stage.name}): has no learning rate; give lr, lr_range or lrs"
        if stage.lr == 0 or stage.lr_decay == 0:
            yield f"{where} ({stage.name}): lr and lr_decay must be greater than 0"
        if stage.warmup > stage.epochs:
            yield f"{where}.warmup={stage.warmup}: is longer than the stage's {stage.epochs} epochs"


def _idle(where: str, stage: StageConfig, opened: set[str]) -> Iterator[str]:
    """A stage that unfreezes nothing, as far as it is said in blocks; `opened` is brought up to date."""
    asked = {*BLOCKS, HEAD} if "all" in stage.open else {name for name in stage.open if isinstance(name, str)}
    remedy = "name a block that is still frozen, or remove the stage"
    if not stage.open and not opened:
        yield f"{where} ({stage.name}): unfreezes nothing, its open is empty; {remedy}"
    if asked and len(asked) >= len(stage.open) and asked <= opened:
        yield f"{where} ({stage.name}): unfreezes nothing, {', '.join(stage.open)} is open already; {remedy}"
    opened |= asked
    opened.difference_update(name for name in stage.freeze if isinstance(name, str))
    if any(not isinstance(name, str) for name in stage.open):
        opened.add("part of a block")


def _dot(path: str) -> str:
    return f"{path}." if path else ""


def _join(path: str, key: str) -> str:
    return f"{path}[{key}]" if key.isdigit() else f"{_dot(path)}{key}"
