"""The jobs of a sweep, and what has become of each: read from its directory, not remembered. No torch."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stagetune.artifacts import RunDir, stored_config, sweep_file, write_text
from stagetune.config.schema import Config
from stagetune.config.validate import completed
from stagetune.errors import ResultError
from stagetune.locks import held
from stagetune.report.collect import read_sweep
from stagetune.report.result import RunResult, config_hash, read_result

ENDED = ("completed", "pruned")
LONGEST = 100  # of a directory's name
NOT_NAMED = ("+experiment", "+sweep", "seed", "trust", "sweep.name", "sweep.stop_on_failure")


@dataclass(frozen=True)
class Job:
    """One combination: its overrides as on a command line, its configuration, and where its run lies."""

    overrides: tuple[str, ...]
    config: Config
    folder: Path


def slug(overrides: Sequence[str]) -> str:
    """A readable directory of a job's overrides, the seed apart; the same ones have the same in every sweep."""
    words = [word for word in overrides if word.partition("=")[0] not in NOT_NAMED]
    words.sort(key=lambda word: "." in word.partition("=")[0])  # groups first: long names are cut
    readable = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", word.lstrip("+~")).strip("-") for word in words) or "as-it-is"
    if len(readable) > LONGEST:
        readable = f"{readable[:LONGEST]}-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:8]}"
    return readable


def state_of(folder: Path, config: Config) -> str:
    """What is to be done with a job whose run lies in `folder`.

    `done`: nothing; `export`: what it has pruned, which is in no 8-bit integers yet; `go on`: from its last
    checkpoint; `repeat`: it failed, or stopped before its first checkpoint; `begin`: there is none yet; `other`: the
    directory holds the run of another configuration.
    """
    try:
        stored = stored_config(RunDir(folder))
    except ResultError:
        return "begin"
    status = _status(folder)
    is_same = config_hash(completed(stored)) == config_hash(asdict(config))
    if status in ENDED:
        return ("export" if _lacks_export(folder) else "done") if is_same else "other"
    if status == "failed" or not RunDir(folder).last.exists():
        return "repeat"
    return "go on" if is_same else "other"


def alone_in(folder: Path) -> AbstractContextManager[None]:
    """Hold a sweep's directory; raises `ResultError` if another process does."""
    return held(folder, "sweep", "wait for it, or say sweep.name=...")


def make_ready(job: Job) -> None:
    """Prepare the directory of a job that is not done; an attempt's result is kept as failed.json.

    Raises:
        ResultError: where a process is at it, such as one that outlived its sweep.
    """
    run_dir = RunDir(job.folder)
    with held(job.folder, "run", "wait for it, or end it"):
        state = state_of(job.folder, job.config)
        if state in ("done", "export"):
            return
        if run_dir.result.exists():
            os.replace(run_dir.result, run_dir.failed)
        if state == "repeat":
            shutil.rmtree(run_dir.checkpoints, ignore_errors=True)


def _lacks_export(folder: Path) -> bool:
    result = result_of(folder)
    return bool(result and result.status == "completed" and result.pruning) and not any(
        RunDir(folder).exports.glob("*-int8.onnx")
    )


def _status(folder: Path) -> str:
    result = result_of(folder)
    return result.status if result else "none"


def result_of(folder: Path) -> RunResult | None:
    """The readable result in a directory."""
    try:
        return read_result(folder)
    except ResultError:
        return None


def write_sweep(folder: Path, jobs: Sequence[Job]) -> None:
    """sweep.json: the overrides of every job that was ever asked for here, by its directory."""
    content: dict[str, Any] = {"schema_version": 1, "jobs": read_sweep(folder)}
    content["jobs"] |= {str(job.folder.relative_to(folder)): list(job.overrides) for job in jobs}
    write_text(sweep_file(folder), json.dumps(content, indent=1) + "\n")
