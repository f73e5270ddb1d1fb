"""Every run below a folder with its configuration, read without torch."""

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagetune.artifacts import RunDir, stored_config, sweep_file
from stagetune.config.validate import completed
from stagetune.errors import ResultError
from stagetune.report.metrics import Row
from stagetune.report.result import NOT_OF_THE_RUN, RunResult, read_result
from stagetune.trust import OUTSIDE

ANSWER = ("path", "split", "group", "label", "answer", "probability")
# a word that sets what a run is, and no more
SETTING = re.compile(r"[+~]{0,2}(?!hydra\b|trust\b|resume)[A-Za-z_][\w./@-]*(=[^\n]*)?")
RESULT = RunDir("").result.name
FOR_STAGES = ("schedule.file", "schedule.backbone_finetuning")  # said in their place, and not stored


@dataclass(frozen=True)
class Run:
    """A run that left a result."""

    folder: Path
    result: RunResult
    settings: dict[str, Any]  # the configuration, flat: dotted key -> value
    overrides: tuple[str, ...]  # on the command line of its sweep

    @property
    def is_scored(self) -> bool:
        return self.result.status == "completed" and self.result.score is not None

    @property
    def score(self) -> float:
        """The best validation value of the monitored metric; of a run that is scored."""
        assert self.result.score is not None
        return self.result.score

    @property
    def said(self) -> dict[str, Any]:
        """The settings, with what its command said in place of stages instead of the stages that it came to."""
        words = [word.lstrip("+").partition("=") for word in self.overrides if is_for_stages(word)]
        if not words:
            return self.settings
        others = {key: value for key, value in self.settings.items() if not key.startswith("schedule.stages.")}
        return others | {key: value for key, _, value in words}

    def rows(self) -> list[Row]:
        """metrics.csv with numbers for numbers; empty where it is missing or torn."""
        try:
            with RunDir(self.folder).metrics.open(newline="") as file:
                return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
        except (OSError, UnicodeDecodeError, csv.Error):
            return []

    def answers(self) -> list[dict[str, str]]:
        """predictions.csv; empty where it is missing or torn."""
        try:
            with RunDir(self.folder).predictions.open(newline="") as file:
                rows = list(csv.DictReader(file))
        except (OSError, UnicodeDecodeError, csv.Error):
            return []
        is_whole = all(key in row and row[key] is not None for row in rows for key in ANSWER)
        return rows if is_whole and all(_number(row["probability"]) is not None for row in rows) else []


def is_for_stages(word: str) -> bool:
    """Whether a word of a command line says the stages in other words."""
    return word.lstrip("+").startswith(tuple(f"{key}{end}" for key in FOR_STAGES for end in ".="))


@dataclass(frozen=True)
class Collection:
    """All runs below a folder, what could not be read, and jobs of a sweep that left nothing."""

    folder: Path
    runs: list[Run]
    unreadable: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def collect(folder: Path) -> Collection:
    """Read all results below `folder`; raises `ResultError` if there is none at all."""
    asked = _asked(folder)
    runs, unreadable = [], []
    for path in sorted(folder.rglob(RESULT)):
        try:
            result = read_result(path.parent)
            overrides = asked.get(str(path.parent.relative_to(folder)), [])
            runs.append(Run(path.parent, result, _settings(path.parent), tuple(overrides)))
        except ResultError as error:
            unreadable.append(str(error))
    if not runs and not unreadable:
        raise ResultError(f"no {RESULT} below {folder}; run an experiment first, such as make sweep")
    found = {str(run.folder.relative_to(folder)) for run in runs}
    missing = [name for name in asked if name not in found and not RunDir(folder / name).result.exists()]
    order = {name: i for i, name in enumerate(asked)}
    runs.sort(key=lambda run: order.get(str(run.folder.relative_to(folder)), len(order)))
    return Collection(folder, runs, unreadable, missing)


def _asked(folder: Path) -> dict[str, list[str]]:
    """The overrides of every job that was asked for, by its directory, in sweeps in or below `folder`."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob(sweep_file(folder).name)):
        within = path.parent.relative_to(folder)
        found |= {str(within / name): words for name, words in read_sweep(path.parent).items()}
    return found


def read_sweep(folder: Path) -> dict[str, list[str]]:
    """The overrides of each job by its directory below `folder`; empty where there is no readable sweep.json.

    Of a file from elsewhere neither a directory outside of the folder is taken nor a word that is no run's setting.
    """
    try:
        jobs = json.loads(sweep_file(folder).read_text())["jobs"]
        return {
            str(name): [str(word) for word in words if SETTING.fullmatch(str(word))]
            for name, words in jobs.items()
            if not OUTSIDE.search(str(name))
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # its runs are read all the same


def _settings(folder: Path) -> dict[str, Any]:
    """config.yaml as dotted keys, complete. Raises `ResultError` where it cannot be read."""
    config = completed(stored_config(RunDir(folder)))
    return dict(_flat({key: value for key, value in config.items() if key not in NOT_OF_THE_RUN}))


def _flat(values: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(values, dict) and values:
        return [pair for key, value in values.items() for pair in _flat(value, f"{path}.{key}" if path else str(key))]
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        return [pair for i, value in enumerate(values) for pair in _flat(value, f"{path}.{i}")]
    return [(path, values)]


def _number(text: str | None) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text
