"""Runs that differ in seed and fold alone are one configuration; what configurations differ in are the columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagetune.report.collect import FOLD, Run
from stagetune.report.statistics import Estimate, estimate

ASIDE = ("seed", "name", FOLD)  # keys by which configurations do not differ: `name` follows from others
NAMES = {"optimizer": "optimizer._target_", "model": "model.arch"}  # of a group; others have a key `name`


@dataclass(frozen=True)
class Configuration:
    """Runs over several seeds of one setting."""

    columns: dict[str, str]  # what sets it apart
    runs: list[Run]

    @property
    def name(self) -> str:
        return " ".join(f"{key}={value}" for key, value in self.columns.items()) or "the only configuration"

    @property
    def scored(self) -> list[Run]:
        return [run for run in self.runs if run.is_scored]

    @property
    def failed(self) -> list[Run]:
        return [run for run in self.runs if run.result.status != "completed"]

    @property
    def scores(self) -> dict[int, float]:
        """By seed; with folds the mean over a seed's, since folds train on much the same: no repetitions."""
        return self._by_seed({run.folder: run.score for run in self.scored})

    @property
    def score(self) -> Estimate | None:
        return estimate(list(self.scores.values())) if self.scored else None

    def tested(self, metric: str) -> Estimate | None:
        """The test's value of a metric of validation."""
        name = metric.replace("val/", "test/")
        found = {run.folder: run.result.test[name] for run in self.scored if name in run.result.test}
        return estimate(list(self._by_seed(found).values())) if found else None

    @property
    def folds(self) -> list[int]:
        """Those that a score is the mean over, of the seed that has most; empty where there are none."""
        of_seed: dict[int, set[int]] = {}
        for run in self.scored:
            if run.settings.get("data.folds") is not None:
                of_seed.setdefault(run.result.seed, set()).add(run.settings.get(FOLD, 0))
        return max((sorted(of) for of in of_seed.values()), key=len, default=[])

    def _by_seed(self, values: Mapping[Path, float]) -> dict[int, float]:
        """The mean over folds of what runs have, by folder; of seeds with other folds those of the most count."""
        by_seed: dict[int, dict[Any, float]] = {}
        for run in self.runs:
            if run.folder in values:
                by_seed.setdefault(run.result.seed, {})[run.settings.get(FOLD)] = values[run.folder]
        folds = max((of.keys() for of in by_seed.values()), key=len, default=None)
        return {seed: sum(of.values()) / len(of) for seed, of in by_seed.items() if of.keys() == folds}

    def probed(self, metric: str) -> float | None:
        """What the probe of the untouched features has of a metric, on average; None where no run had one."""
        values = [value for run in self.scored if (value := run.result.probed(metric)) is not None]
        return sum(values) / len(values) if values else None

    def mean(self, key: str) -> float | None:
        """Of the scored runs: `seconds`, most `trainable` parameters, `memory` in MB, `speed` in images/s."""
        values = [value for run in self.scored if (value := _cost(run, key)) is not None]
        return sum(values) / len(values) if values else None


def configurations(runs: Sequence[Run]) -> tuple[list[Configuration], dict[str, Any]]:
    """The configurations in the order of their first runs, and the settings that all of them share."""
    grouped: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        key = tuple(sorted((name, repr(value)) for name, value in run.settings.items() if name not in ASIDE))
        grouped.setdefault(key, []).append(run)
    members = list(grouped.values())
    firsts = [same[0].settings for same in members]
    said = [same[0].said for same in members]
    if any(one in said[:i] for i, one in enumerate(said)):  # a file that was edited between two runs
        said = firsts
    columns = _columns(said)
    names = {key for settings in firsts for key in settings}
    shared = {
        key: firsts[0][key]
        for key in sorted(names)
        if key not in ASIDE and all(key in settings and settings[key] == firsts[0][key] for settings in firsts)
    }
    found = [
        Configuration({_short(key): _text(settings.get(key)) for key in columns}, same)
        for settings, same in zip(said, members, strict=True)
    ]
    return found, shared


def _columns(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that differ; of a group that was chosen by name its name, and others only where it does not tell."""
    keys = list(dict.fromkeys(key for one in settings for key in one if key not in ASIDE))
    differing = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
    columns = []
    for key in differing:
        group = key.split(".")[0]
        chosen = NAMES.get(group, f"{group}.name")
        if key == chosen or chosen not in differing:
            columns.append(key)
            continue
        by_name: dict[str, set[str]] = {}
        for one in settings:
            by_name.setdefault(repr(one.get(chosen)), set()).add(repr(one.get(key)))
        if any(len(values) > 1 for values in by_name.values()):
            columns.append(key)
    return columns


def _short(key: str) -> str:
    """schedule.name is what one says with schedule=..."""
    group = key.split(".")[0]
    return group if key == NAMES.get(group, f"{group}.name") else key


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.rsplit(".", 1)[-1] if value.startswith("torch.") else value
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _cost(run: Run, key: str) -> float | None:
    result = run.result
    if key == "seconds":
        return result.timing.get("fit_seconds")  # without pretraining a backbone, which one run does for all
    if key == "memory":
        return result.peak_memory_mb or None
    if key == "trainable":
        return max((float(stage["trainable_params"]) for stage in result.stages), default=None)
    slowest = [stage["samples_per_second"] for stage in result.stages if stage["samples_per_second"]]
    return min(slowest, default=None)


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """What runs should share if they are to be compared, and do not: each in a sentence."""
    said = []
    for what, values in {
        "weights": [run.result.weights.get("used", "") for run in runs],
        "data": [_data(run) for run in runs],
        "splits": [f"data.seed={run.settings['data.seed']}" for run in runs if "data.seed" in run.settings],
        "library versions": [_versions(run) for run in runs],
        "machines": [str(run.result.environment.get("device", {}).get("name", "")) for run in runs],
        "code": [str(run.result.environment.get("git", "")) for run in runs],
    }.items():
        counts = Counter(value for value in values if value)
        if len(counts) > 1:
            (most, _), *others = counts.most_common()
            listed = "; ".join(f"{count} with {value}" for value, count in others[:3])
            said.append(f"runs differ in their {what}: most have {most}, {listed}")
    return said


def fold_warnings(found: Sequence[Configuration]) -> list[str]:
    """What is uneven in the folds of configurations: seeds that lack some, and scores over others."""
    said = []
    for one in found:
        if lacking := sorted({run.result.seed for run in one.scored} - one.scores.keys()):
            seeds = f"seed{'s' if len(lacking) > 1 else ''} {_numbers(lacking)}"
            said.append(f"{one.name}: {seeds} left out, without all of the folds {_numbers(one.folds)}")
    counts = Counter(_numbers(one.folds) for one in found if one.folds)
    if len(counts) > 1:
        (most, _), *_ = counts.most_common(1)
        others = [
            f"{one.name} over {_numbers(one.folds)}" for one in found if one.folds and _numbers(one.folds) != most
        ]
        said.append(f"scores are means over other folds: most over {most}, {'; '.join(others[:3])}")
    return said


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _data(run: Run) -> str:
    data = run.result.data
    parts = ", ".join(f"{part} {data[part]}" for part in ("train", "val", "test") if part in data)
    if folds := run.settings.get("data.folds"):  # whose sizes differ by what cannot be divided
        parts = f"a fold of {folds}"
    contents = f", contents {data['contents']}" if "contents" in data else ""
    return f"{data['name']} ({parts}, split by {data.get('split')}{contents})" if "name" in data else ""


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.result.environment.get("versions", {}).items())
