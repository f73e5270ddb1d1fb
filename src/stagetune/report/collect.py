"""Every run below a folder with its configuration, read without torch."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from stagetune.artifacts import RunDir, stored_config, stored_json, sweep_file
from stagetune.config.validate import completed
from stagetune.errors import ResultError
from stagetune.report.metrics import Row
from stagetune.report.result import NOT_OF_THE_RUN, RunResult, read_result
from stagetune.trust import OUTSIDE

ANSWER = ("path", "split", "group", "label", "answer", "probability")
# a word that sets what a run is, and no more
SETTING = re.compile(r"[+~]{0,2}(?!hydra\b|trust\b|resume)[A-Za-z_][\w./@-]*(=[^\n]*)?")
RESULT = RunDir("").result.name
FOLD = "data.fold"
MOST_EPOCHS = 10**9  # of a run
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
        """metrics.csv with numbers for numbers; empty where it is missing or damaged."""
        with suppress(ResultError):
            return _metrics(RunDir(self.folder).metrics)
        return []

    def answers(self) -> list[dict[str, str]]:
        """predictions.csv; empty where it is missing or damaged."""
        with suppress(ResultError):
            return _predictions(RunDir(self.folder).predictions)
        return []

    def damaged(self) -> Iterator[str]:
        """What of it cannot be read beside its result, in a sentence each."""
        run_dir = RunDir(self.folder)
        for read, path in ((_metrics, run_dir.metrics), (_predictions, run_dir.predictions)):
            try:
                read(path)
            except ResultError as error:
                yield str(error)


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
    runs: list[Run] = []
    unreadable: list[str] = []
    for path in sorted(folder.rglob(RESULT)):
        try:
            result = read_result(path.parent)
            overrides = asked.get(str(path.parent.relative_to(folder)), [])
            run = Run(path.parent, result, _settings(path.parent), tuple(overrides))
            unreadable += run.damaged()
            runs.append(run)
        except ResultError as error:
            unreadable.append(str(error))
    if not runs and not unreadable:
        raise ResultError(f"no {RESULT} below {folder}; run an experiment first, such as make sweep")
    found = {str(run.folder.relative_to(folder)) for run in runs}
    missing = [name for name in asked if name not in found and not os.path.exists(RunDir(folder / name).result)]
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
        jobs = stored_json(sweep_file(folder))["jobs"]
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
    found = dict(_flat({key: value for key, value in config.items() if key not in NOT_OF_THE_RUN}))
    if not isinstance(found.get(FOLD), int | None):
        raise ResultError(f"{RunDir(folder).config} is damaged ({FOLD} is no whole number); run it again")
    return found


def _flat(values: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(values, dict) and values:
        return [pair for key, value in values.items() for pair in _flat(value, f"{path}.{key}" if path else str(key))]
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        return [pair for i, value in enumerate(values) for pair in _flat(value, f"{path}.{i}")]
    return [(path, values)]


def _metrics(path: Path) -> list[Row]:
    """Rows of metrics.csv, none where there is no such file; raises `ResultError` for a damaged one."""
    rows = [{key: _number(value) for key, value in row.items()} for row in _table(path, ("epoch",))]
    if any(not isinstance(row["epoch"], float) or not 0 <= row["epoch"] < MOST_EPOCHS for row in rows):
        raise ResultError(f"{path} is damaged (an epoch is no number); its curve is left out")
    return rows


def _predictions(path: Path) -> list[dict[str, str]]:
    """Rows of predictions.csv, none where there is no such file; raises `ResultError` for a damaged one."""
    rows = _table(path, ANSWER)
    probabilities = [_number(row["probability"]) for row in rows]
    if any(not isinstance(one, float) or not isfinite(one) for one in probabilities):
        raise ResultError(f"{path} is damaged (a probability is no number); its answers are left out")
    return rows


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """A CSV that has these columns and is whole, or is not there; raises `ResultError` for one that is damaged."""
    try:
        # a name of other bytes keeps its bytes, as it was written
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            header, *rows = [*csv.reader(file)] or [[]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise ResultError(f"{path} cannot be read ({error}); it is left out") from error
    if not header and not rows:
        return []
    if lacking := [column for column in columns if column not in header]:
        raise ResultError(f"{path} is damaged (it has no column {lacking[0]}); it is left out")
    if short := next((number for number, row in enumerate(rows, start=2) if len(row) != len(header)), None):
        raise ResultError(f"{path} is damaged (row {short} has another length than the first); it is left out")
    return [dict(zip(header, row, strict=True)) for row in rows]


def _number(text: str) -> Any:
    try:
        return float(text) if text else None
    except ValueError:
        return text
