"""The configuration of a run that prunes what another has trained: that one's own, with one short stage. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from stagetune.config.compose import UNCOMPOSABLE, composed, explain, to_plain, with_own
from stagetune.config.earlier import translated
from stagetune.config.resume import OWN, changed, foreign_parts, is_setting
from stagetune.config.schema import Config
from stagetune.config.validate import read_config, validate
from stagetune.errors import ConfigError
from stagetune.schedule.spec import ALL, Schedule
from stagetune.trust import Untrusted

SLOWER = 0.1  # of the rates: the weights are nearly right


def pruned_config(
    stored: Mapping[str, Any], weights: str, ratio: float, overrides: Sequence[str], *, trust: bool = False
) -> Config:
    """What `stagetune prune` runs.

    Args:
        stored: the configuration that a checkpoint has kept.
        weights: the checkpoint, or its run's directory.
        ratio: the share of channels to leave out.
        overrides: the words of a command line, which may say all of it differently.
        trust: whether code that the checkpoint names and does not hold may be imported and run.

    Returns:
        The configuration of that run, with its head kept, and the last stage of its schedule alone.

    Raises:
        ConfigError: with all problems.
        Untrusted: without `trust` for a checkpoint that names code which the words do not.
    """
    words = with_own(overrides)
    values = asdict(read_config(stored))
    of_the_command: dict[str, Any] = {"resume": None, "resume_with_new_schedule": False, "trust": False, "sweep": {}}
    values |= {"name": f"{values['name']}-pruned", **of_the_command}
    values["model"] |= {"weights": weights, "head": "keep", "head_init": "random", "prune": {"ratio": ratio}}
    if not any(word.lstrip("+").startswith(("schedule=", "schedule.file=")) for word in words):
        values["schedule"] = asdict(last_stage(read_config(stored).schedule))
    try:
        groups = to_plain(composed([word for word in words if not is_setting(word)]))
    except UNCOMPOSABLE as error:
        raise explain(error, words) from error
    values = changed(translated(values), groups, words, whose="a run that is pruned")
    if found := foreign_parts(values, groups, words, trust=trust):
        raise Untrusted(
            f"{weights}: its configuration names {', and '.join(map(str, found))}; if you trust where it comes from, "
            "add --trust"
        )
    return validate(values, words)


def place_of(overrides: Sequence[str]) -> str | None:
    """The directory that `hydra.run.dir=` names, if any.

    Raises:
        ConfigError: for words that would prune another network, or by another ratio, or have no effect.
    """
    said = {word.key_or_group: word for word in OverridesParser.create().parse_overrides(list(overrides))}
    place = said.pop("hydra.run.dir", None)
    apart = ("model", "model.weights", "model.prune.ratio", *(key for key in OWN if key != "trust"))
    problems = [
        f"{word.input_line}: cannot be said to a run that is pruned; leave it out"
        for key, word in said.items()
        if key in apart or key.startswith("hydra")
    ]
    if problems:
        raise ConfigError(problems)
    return None if place is None else str(place.value())


def last_stage(schedule: Schedule) -> Schedule:
    """Its last stage alone, with all open that is open then, at a tenth of the rates.

    Raises:
        ConfigError: for a schedule that freezes again what it opened, of which a single stage cannot be made.

    >>> from stagetune import load_schedule
    >>> stage = last_stage(load_schedule("gradual")).stages[0]
    >>> stage.name, stage.open[:3]
    ('stem', ['head', 'layer4', 'layer3'])
    """
    if frozen := [stage.name for stage in schedule.stages if stage.freeze]:
        raise ConfigError(
            [f"schedule {schedule.name}: stage {frozen[0]} freezes again, so that its last stage does not stand "
             "alone; say what trains after pruning, such as schedule=full"]
        )  # fmt: skip
    opened: list[Any] = []
    for stage in schedule.stages:
        opened += [selector for selector in stage.open if selector not in opened]
    last = schedule.stages[-1]
    stage = replace(
        last,
        open=[ALL] if ALL in opened else opened,
        lr=last.lr and last.lr * SLOWER,
        lr_range=last.lr_range and [rate * SLOWER for rate in last.lr_range],
        lrs=last.lrs and {key: rate * SLOWER for key, rate in last.lrs.items()},
    )
    name = f"{schedule.name.removesuffix('_last')}_last"
    return Schedule(name, True, [stage], schedule.monitor, schedule.mode)
