"""A composed configuration, checked and typed: every problem is found before the first is reported."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from stagetune.artifacts import renamed
from stagetune.config.earlier import translated
from stagetune.config.monitor import monitor_problems
from stagetune.config.parts import OWN, PACKAGES, TARGETS, Parts, names, of_data, part
from stagetune.config.schema import Composed, Config
from stagetune.config.settings import BLOCKS
from stagetune.errors import ConfigError, ScheduleError, did_you_mean
from stagetune.schedule.load import ScheduleSource, load_schedule
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

BESIDE_FILE = ("file", "monitor", "mode")  # what holds of schedule.* with a schedule file


def validate(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """The typed configuration of plain nested `values`; raises `ConfigError` with all problems.

    `overrides` are the words of the command line that led to the values: one without effect is a problem, too.
    """
    config, problems = _read(values, overrides)
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
        clips = [
            config.trainer.get("gradient_clip_val"),
            *(stage.gradient_clip_val for stage in config.schedule.stages),
        ]
        algorithm = config.trainer.get("gradient_clip_algorithm")
        if algorithm and not any(clips):
            problems.append(
                f"trainer.gradient_clip_algorithm={algorithm}: has no effect where nothing is clipped; "
                "add +trainer.gradient_clip_val=1.0, or leave it out"
            )
        if config.precision == "fp16" and any(clips) and config.optimizer.get("fused"):
            problems.append(
                "precision=fp16: a fused optimizer cannot clip scaled gradients; add optimizer.fused=false"
            )
    if problems or config is None:
        raise ConfigError(problems)
    return config


def read_config(values: Mapping[str, Any]) -> Config:
    """The configuration that a run has kept, with the types of its values alone checked; raises `ConfigError`."""
    config, problems = _read(translated(values))
    if config is None:
        raise ConfigError(problems)
    if isinstance(config.schedule, ScheduleSource) and config.schedule.file is not None:
        raise ConfigError([f"schedule.file={config.schedule.file}: no run stores one, but the stages that it says"])
    config.schedule = load_schedule(config.schedule)
    return config


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with every setting of today: one that it lacks, being older, has its default.

    As it was stored where it cannot be read any more.
    """
    try:
        return asdict(read_config(stored))
    except (ConfigError, ScheduleError):
        return dict(stored)


def named_own(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with each `_target_` of a group as the part of a person's own.

    What that part does not read are arguments of the target.
    """
    found = dict(values)
    for group, holder in TARGETS.items():
        given = values.get(group)
        is_own = isinstance(given, Mapping) and given.get("name") == OWN and holder == "target"
        if isinstance(given, Mapping) and ("_target_" in given or is_own):
            read = {entry.name for entry in fields(part(group, OWN))}  # type: ignore[arg-type]
            more = {key: value for key, value in given.items() if key not in read}
            kept = {key: value for key, value in given.items() if key in read}
            held = given.get(holder) or {}
            if not isinstance(held, Mapping):  # an argument that is called so
                held = {holder: held}
            found[group] = {**kept, "name": OWN, holder: {**held, **more}}
    return found


def _read(values: Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[Config | None, list[str]]:
    problems: list[str] = []
    if "experiment" in values:
        values = {key: value for key, value in values.items() if key != "experiment"}
        problems.append("conf/experiment: a file there lacks its first line, # @package _global_; add it")
    values = named_own({group: {} for group in PACKAGES} | renamed(values))
    chosen = Parts(values, overrides)
    problems += chosen.problems
    known = {key: value for key, value in values.items() if key not in PACKAGES or key in chosen.names}
    composed = typed(Composed, known, "", problems, chosen)
    if problems:
        return None, problems
    return Config(**{entry.name: getattr(composed, entry.name) for entry in fields(composed)}), problems


def _schedule(config: Config) -> Schedule:
    """The stages that are trained; a file stands for those of the group that was chosen."""
    given = config.schedule
    if isinstance(given, ScheduleSource) and given.file is not None:
        given = ScheduleSource(**{key: getattr(given, key) for key in BESIDE_FILE})
    blocks = config.model.labels() or BLOCKS
    return load_schedule(given, blocks=blocks, metrics=_metrics(config), trust=config.trust)


def _metrics(config: Config) -> tuple[str, ...]:
    return (*config.task.metrics, *(f"val/{name}" for name in config.metrics))


def _rules(config: Config) -> Iterator[str]:
    """What the settings demand of each other."""
    task, loss = config.task, config.loss
    if loss.task not in (None, task.name):
        fitting = [name for name in names(PACKAGES["loss"]) if part("loss", name).task == task.name]  # type: ignore[attr-defined]
        choose = ", ".join(f"loss={name}" for name in fitting)
        yield f"loss={loss.name}: does not fit task={task.name}; choose {choose}"
    if task.monitor not in _metrics(config):
        near = did_you_mean(task.monitor, _metrics(config))
        yield f"task.monitor={task.monitor}: no such metric of {task.name}; {near}"
    else:
        yield from monitor_problems(config)
    yield from task.problems(config)
    yield from loss.problems(config)
    for one in of_data(config.data):
        yield from one.problems(config.data, config)
    yield from config.model.problems(config)
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
    yield from _process_rules(config.trainer)
    if config.logger.lightning is not None and "_target_" not in config.logger.lightning:
        yield "logger.lightning._target_: is missing; choose logger=tensorboard, or name a Lightning logger"
    for group, named in (("callbacks", config.callbacks), ("metrics", config.metrics)):
        for name, settings in named.items():
            if "_target_" not in settings:
                yield f"{group}.{name}._target_: is missing; name a class, +{group}.{name}._target_=package.Class"
    for name in config.metrics:
        if f"val/{name}" in task.metrics:
            yield f"metrics.{name}: {task.name} measures a val/{name} already; give yours another name"


def _without_effect(file: str, overrides: Sequence[str]) -> Iterator[str]:
    """Overrides of a schedule for which a file stands."""
    for override in overrides:
        group, _, key = override.partition("=")[0].lstrip("+~").partition(".")
        if group == "schedule" and key not in BESIDE_FILE:
            yield f"{override}: has no effect beside schedule.file={file}; leave it out, or say it in the file"


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
