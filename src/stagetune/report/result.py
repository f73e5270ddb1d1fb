"""result.json: everything that a comparison of runs needs, in one file. Reading needs no torch."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from typing import Any

from stagetune.artifacts import RunDir, StageRecord, stored_json, write_text
from stagetune.errors import ResultError
from stagetune.report.shapes import Inner
from stagetune.typed import typed

SCHEMA_VERSION = 1
SHOWN = 3  # problems of a file
MAY_LACK = ("classification", "pruning")  # empty where there was none
FINITE = ("best", "classification", "pruning", "timing", "peak_memory_mb")  # metrics may be no numbers
NOT_OF_THE_RUN = ("sweep", "resume", "resume_with_new_schedule", "trust")


@dataclass
class RunResult:
    """One run; the keys are those of result.json.

    Attributes:
        status: `completed`, `failed`, `interrupted` or `pruned`.
        experiment: the run's name.
        task: `classifier` or `siamese`.
        seed: that of the run, not of the split.
        config_hash: equal for configurations that mean the same run.
        schedule: its name.
        precision: as it became, `fp32`, `bf16` or `fp16`.
        batch_size: images of a batch, in one process.
        accumulation: batches of an optimizer step.
        effective_batch_size: images of an optimizer step, over all processes.
        weights: requested, used.
        data: name, split, train, val, test, notes.
        stages: a record of each stage that was trained.
        best: epoch, stage, metric, mode, value, checkpoint.
        test: each metric of the best model.
        probe: of the untouched features, in val/... and test/...: accuracy of a logistic regression, with its C and
            whether it converged, and knn, that of nearest neighbours by cosine, with their k; of a siamese run auc by
            cosine, recall@1 within the part and, of identities that training has too, identity_accuracy of a logistic
            regression; features, how many there are; left_out, the reason why some or all of it is not there.
        classification: of the test, image by image: accuracy and balanced accuracy with intervals, the baseline, each
            class, the pairs of classes confused most and the worst mistakes, see `evaluation/classification`; and
            unknown: the probability below which an answer is that, the share answered, and its accuracy. answered_by
            is class, or of a siamese run nearest: an image is answered with the identity of the nearest other one.
        verification: of the test of a siamese run, with intervals.
        calibration: what was fitted in validation: of a siamese run the threshold; of a classifier the temperature
            and the probability below which an answer is unknown, and the calibration error in val and test.
        pruning: of a run that prunes: ratio, parameters and macs (multiply-adds of an image) before and after,
            latency_ms (of an image, by batch size) before and after, with how it was measured; where the head is
            kept quality, the `metric` of validation before, pruned, re-estimated and fine-tuned; blocks, by name
            parameters before and after, and why it keeps channels; batches, from which BatchNorm was re-estimated.
        timing: total_seconds; in them data_seconds with reading_seconds (of images that were not known, or not
            decoded, by an earlier start), weights_seconds, probe_seconds, fit_seconds with cache_seconds.
        peak_memory_mb: the highest of all stages.
        environment: versions, device, git.
        error: type, message.
        schema_version: of these keys.
    """

    status: str
    experiment: str
    task: str
    seed: int
    config_hash: str
    schedule: str
    precision: str
    batch_size: int
    accumulation: int
    effective_batch_size: int
    weights: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    stages: list[StageRecord] = field(default_factory=list)
    best: dict[str, Any] | None = None
    test: dict[str, float] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)
    classification: dict[str, Any] = field(default_factory=dict)
    verification: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    pruning: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    peak_memory_mb: float = 0.0
    environment: dict[str, Any] = field(default_factory=dict)
    error: dict[str, str] | None = None
    schema_version: int = SCHEMA_VERSION

    def probed(self, metric: str) -> float | None:
        """What the probe of the untouched features has of a metric, if anything."""
        value = self.probe.get(metric)
        return float(value) if isinstance(value, float | int) else None

    @property
    def score(self) -> float | None:
        """The best validation value of the monitored metric, what a sweep optimises."""
        return self.best["value"] if self.best else None


def write_result(result: RunResult, run_dir: str | os.PathLike[str]) -> None:
    write_text(RunDir(run_dir).result, json.dumps(asdict(result), indent=2) + "\n")


def read_result(run_dir: str | os.PathLike[str]) -> RunResult:
    """The result of a run directory.

    Raises:
        ResultError: where it is missing, torn, of another version, or was changed into what no run leaves.
    """
    path = RunDir(run_dir).result
    try:
        values = stored_json(path)
    except FileNotFoundError:
        raise ResultError(f"{path} does not exist; is {run_dir} the directory of a finished run?") from None
    except (OSError, ValueError) as error:
        raise ResultError(f"{path} is not readable JSON ({error}); run it again") from None
    known = {entry.name for entry in fields(RunResult)}
    if not isinstance(values, dict) or values.get("schema_version") != SCHEMA_VERSION or not values.keys() <= known:
        raise ResultError(f"{path} is not a result of schema version {SCHEMA_VERSION}; run it again")
    given = {key: value for key, value in values.items() if value != {} or key not in MAY_LACK}
    problems: list[str] = []
    found = typed(RunResult, given, "", problems)
    typed(Inner, given, "", problems)
    problems += [f"{place}: is no finite number" for key in FINITE for place in _not_finite(given.get(key), key)]
    if problems:
        raise ResultError(f"{path} is damaged ({'; '.join(problems[:SHOWN])}); run it again")
    assert isinstance(found, RunResult)
    return found


def _not_finite(value: Any, path: str) -> Iterator[str]:
    """Where in plain values there is NaN or infinity."""
    if isinstance(value, float) and not isfinite(value):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _not_finite(item, f"{path}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _not_finite(item, f"{path}[{i}]")


def config_hash(config: Mapping[str, Any]) -> str:
    """Equal for configurations that mean the same run, in any order of keys and any sweep."""
    own = {key: value for key, value in config.items() if key not in NOT_OF_THE_RUN}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]
