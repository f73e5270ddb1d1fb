"""`load_schedule`: a schedule from whatever names one. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stagetune.artifacts import stored_yaml
from stagetune.errors import ScheduleError, did_you_mean
from stagetune.schedule.backbone_finetuning import BackboneFinetuning, stages_of
from stagetune.schedule.finetuning_scheduler import from_phases, is_phases
from stagetune.schedule.rules import schedule_rules
from stagetune.schedule.spec import Schedule, Stage
from stagetune.shipped import CONF
from stagetune.trust import Foreign, foreign
from stagetune.typed import typed

PRESETS = CONF / "schedule"
LONGEST = 20_000  # values of a file


@dataclass(slots=True)
class ScheduleSource(Schedule):
    """A schedule as it may be given: with its stages, or with what stands for them.

    Attributes:
        file: a YAML file in our words or finetuning-scheduler's.
        backbone_finetuning: the arguments of Lightning's callback of that name.
    """

    file: str | None = None
    backbone_finetuning: BackboneFinetuning | None = None


Given = Schedule | Sequence[Stage | Mapping[str, Any]] | Mapping[Any, Any] | str | Path


def load_schedule(
    given: Given,
    *,
    monitor: str | None = None,
    mode: str | None = None,
    blocks: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    trust: bool = False,
) -> Schedule:
    """The schedule with its stages written out, checked as far as it can be without a model.

    Args:
        given: the name of a preset, the path of a YAML file, a list of stages, a mapping in the words of such a
            file, or a schedule.
        monitor: the metric that stages look at, instead of the schedule's.
        mode: `min` or `max`, which of its values are good, instead of the schedule's.
        blocks: the names of the backbone's blocks, where they are known.
        metrics: the names that `monitor` may have, where they are known.
        trust: whether schedulers of somebody's own, which a file names, may be imported and run.

    Returns:
        All that is stored, compared and planned, with the stages written out. Nothing in it is shared with `given`.

    Raises:
        ScheduleError: with all problems.

    >>> load_schedule([{"name": "all", "open": ["all"], "epochs": 2, "lr": 1e-3}]).stages[0].epochs
    2
    >>> [stage.name for stage in load_schedule("lp_ft").stages]
    ['probe', 'finetune']
    """
    try:
        schedule = _expanded(_source(given), trust=trust)
    except RecursionError:
        raise ScheduleError("the schedule contains itself; write it out") from None
    if mode not in (None, "min", "max") or not isinstance(monitor, str | None):
        raise ScheduleError(f"monitor={monitor}, mode={mode}: give the name of a metric, and min or max")
    schedule = replace(schedule, monitor=monitor or schedule.monitor, mode=mode or schedule.mode)
    if problems := list(schedule_rules(schedule, blocks=blocks, metrics=metrics)):
        raise ScheduleError(f"schedule {schedule.name}:", *problems)
    return schedule


def _source(given: Given) -> ScheduleSource:
    """What is given, in our words."""
    given = _plain(given)
    if isinstance(given, str | Path):
        return _named(str(given))
    if isinstance(given, Schedule):
        return _typed(asdict(given), f"schedule {given.name}")
    if isinstance(given, Mapping):
        return _from_mapping(given, str(given.get("name", "schedule")))
    if isinstance(given, Sequence):
        stages = [asdict(stage) if isinstance(stage, Stage) else stage for stage in given]
        return _typed({"stages": stages}, "schedule")
    raise ScheduleError(f"{given!r} is no schedule; give a preset's name, a path.yaml, a list of stages or a mapping")


def _expanded(source: ScheduleSource, *, trust: bool = False) -> Schedule:
    """With the stages that a file or a recipe stands for."""
    if len(ways := [key for key in ("file", "backbone_finetuning", "stages") if getattr(source, key)]) > 1:
        raise ScheduleError(f"schedule: gives both {' and '.join(ways)}; leave one of them out")
    if source.file is not None:
        read = read_schedule(source.file, trust=trust)
        return replace(read, monitor=read.monitor or source.monitor, mode=read.mode or source.mode)
    plain = Schedule(**{entry.name: getattr(source, entry.name) for entry in fields(Schedule)})
    if source.backbone_finetuning is not None:
        return replace(plain, stages=stages_of(source.backbone_finetuning))
    return plain


def _named(name: str) -> ScheduleSource:
    presets = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name in presets:
        return ScheduleSource(file=str(PRESETS / f"{name}.yaml"))
    if not name.endswith((".yaml", ".yml")):
        raise ScheduleError(f"there is no schedule {name}; {did_you_mean(name, presets)} Or give a path.yaml")
    return ScheduleSource(file=name)


def read_schedule(file: str | Path, *, trust: bool = False) -> Schedule:
    """The schedule that stands in a YAML file; raises `ScheduleError`, without `trust` also where it names code."""
    path = Path(file).expanduser()
    where = f"schedule file {path}"
    try:
        text = path.read_text()
        if not isinstance(yaml.compose(text), yaml.MappingNode):
            text = ""
        if twice := next(_given_twice(yaml.compose(text)), None):
            raise ScheduleError(f"{where}: {twice.value} stands twice, again in line {twice.start_mark.line + 1}")
        stored_yaml(path, most=LONGEST)  # what its anchors stand for would take OmegaConf minutes
        content = OmegaConf.to_container(OmegaConf.create(text or "{}"))
    except FileNotFoundError:
        raise ScheduleError(f"{where} does not exist (looked in {Path.cwd()})") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ScheduleError(f"{where} cannot be read: {error}") from error
    if not isinstance(content, Mapping) or not content:
        raise ScheduleError(f"{where} holds no schedule; give it stages, or phases 0, 1, ...")
    source = _from_mapping(content, path.stem, where)
    if source.file is not None:
        raise ScheduleError(f"{where}:", "file: a schedule file names no other file")
    schedule = _expanded(source)
    if found := foreign({"schedule": asdict(schedule)}, trust):
        raise ScheduleError(f"{where}:", *(_untrusted(one) for one in found))
    return schedule


def _untrusted(one: Foreign) -> str:
    remedy = "if you trust where the file comes from, say trust=true (in a program, load_schedule(..., trust=True))"
    return f"{one.key.removeprefix('schedule.')}: names {one}; {remedy}"


def _from_mapping(content: Mapping[Any, Any], name: str, where: str = "schedule") -> ScheduleSource:
    if not is_phases(content):
        return _typed({"name": name, **content}, where)
    try:
        phases = from_phases(content, name)
        return ScheduleSource(**{entry.name: getattr(phases, entry.name) for entry in fields(phases)})
    except ScheduleError as error:
        raise ScheduleError(f"{where}, {error}") from error


def _typed(values: Mapping[Any, Any], where: str) -> ScheduleSource:
    problems: list[str] = []
    source = typed(ScheduleSource, _plain(values), "", problems)
    if problems:
        raise ScheduleError(f"{where}:", *problems)
    assert isinstance(source, ScheduleSource)
    return source


def _plain(value: Any) -> Any:
    """Nested containers without OmegaConf's, in which Hydra hands out lists."""
    if OmegaConf.is_config(value):
        return OmegaConf.to_container(value, resolve=True)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _given_twice(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Keys of a mapping that stand in it before; YAML's loader would keep the last one and say nothing."""
    if isinstance(node, yaml.MappingNode):
        seen: set[Any] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key
                seen.add(key.value)
            yield from _given_twice(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _given_twice(item)
