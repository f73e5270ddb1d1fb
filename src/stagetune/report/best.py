"""The winning configuration of a comparison as an experiment file."""

import json
import re
from typing import Any

import yaml

from stagetune.artifacts import RunDir, stored_config
from stagetune.config.compose import groups
from stagetune.errors import ResultError
from stagetune.report.collect import FOLD, Run, is_for_stages
from stagetune.report.result import NOT_OF_THE_RUN
from stagetune.report.summary import Summary
from stagetune.shipped import COMMAND
from stagetune.visible import visible_name

OF_THE_SWEEP = ("name", "seed", "sweep")


def best_run(summary: Summary) -> Run:
    """The best run of the best configuration; raises `ResultError` if none has completed."""
    if summary.best_run is None:
        raise ResultError(f"no run below {summary.collection.folder} has completed")
    return summary.best_run


def experiment_yaml(summary: Summary) -> str:
    """A file for conf/experiment/: the groups that the winner's command line chose, and its single settings."""
    run = best_run(summary)
    config = stored_config(RunDir(run.folder))
    base: list[str] = []
    chosen: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for word in run.overrides:
        key, _, value = word.lstrip("+~").partition("=")
        path = key.split(".")
        if key == "experiment":
            base = [f"  - {_scalar(value)}"]
        elif path[0] in OF_THE_SWEEP or key == FOLD:
            continue
        elif key in groups():
            chosen[key] = value
        elif is_for_stages(word):
            settings["schedule"] = _get(config, ["schedule"])  # the stages that they came to
        else:
            # a file cannot change one entry of a list: it has the whole of it
            whole = path[: next((i for i, part in enumerate(path) if part.isdigit()), len(path))]
            whole = _stored(config, whole)
            _put(settings, whole, _get(config, whole))
    assert summary.best is not None
    assert summary.best.score is not None
    metric, score = visible_name(summary.metric), summary.best.score
    lines = [
        "# @package _global_",
        visible_name(f"# Purpose: the best of {summary.collection.folder}: {summary.best.name}"),
        f"# Command: {COMMAND} +experiment=best     (with this as conf/experiment/best.yaml)",
        f"# Expect:  {metric} {score.mean:.4f}, as over {score.count} seeds",
        "defaults:",
        *base,
        *(f"  - override /{group}: {_scalar(option)}" for group, option in chosen.items()),
    ]
    if lines[-1] == "defaults:":
        lines.pop()
    if not run.overrides:  # it is of no sweep: all that is known is everything
        left_out = (*OF_THE_SWEEP, *NOT_OF_THE_RUN)
        settings = {key: value for key, value in config.items() if key not in left_out}
    return "\n".join([*lines, "name: best", yaml.safe_dump(_literal(settings), sort_keys=False) if settings else ""])


def _scalar(text: str) -> str:
    """A text as it stands in YAML: it may have come from a file that somebody made."""
    return text if re.fullmatch(r"[A-Za-z_][\w.-]*", text) else json.dumps(text)


def _literal(value: Any) -> Any:
    """The same for Hydra, which would put something else in the place of ${...}."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def _stored(config: dict[str, Any], path: list[str]) -> list[str]:
    """Where a word of the command line is stored: arguments of a part of one's own lie with its `_target_`."""
    holder = {"model": "network"}.get(path[0], "target")
    group = config.get(path[0])
    is_own = isinstance(group, dict) and group.get("name") == "own" and path[1] not in group
    return [path[0], holder, *path[1:]] if is_own else path


def _get(values: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(values, dict) or part not in values:
            raise ResultError(
                f"the best run's config.yaml has no {'.'.join(path)}, which its sweep set; run it again"
            )
        values = values[part]
    return values


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value
