"""The jobs of a sweep, and what has become of each: read from its directory, not remembered. No torch."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
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


def places(jobs: Sequence[Sequence[str]], recorded: Mapping[str, Sequence[str]]) -> list[str]:
    """A readable directory for the overrides of each job, the seed apart; with a hash where two would share one.

    Args:
        jobs: the overrides of each job of a sweep.
        recorded: those of each job that was asked for there before, by its directory, which such a one has again.
    """
    known = {(str(PurePosixPath(name).parent), _named(words)) for name, words in recorded.items()}
    taken = known | {(_readable(_named(words)), _named(words)) for words in jobs}
    found = []
    for words in map(_named, jobs):
        plain = _readable(words)
        hashed = _hashed(plain, words)
        is_shared = any(name.casefold() == plain.casefold() and other != words for name, other in taken)
        is_new = (plain, words) not in known
        found.append(hashed if (hashed, words) in known or (is_shared and is_new) else plain)
    return found


def _named(overrides: Sequence[str]) -> tuple[str, ...]:
    """The words that tell jobs apart; groups first, since long names are cut."""
    words = [word for word in overrides if word.partition("=")[0] not in NOT_NAMED]
    return tuple(sorted(words, key=lambda word: "." in word.partition("=")[0]))


def _readable(words: Sequence[str]) -> str:
    name = "_".join(re.sub(r"[^A-Za-z0-9.]+", "-", word.lstrip("+~")).strip("-") for word in words) or "as-it-is"
    return name if len(name) <= LONGEST else _hashed(name, words)


def _hashed(name: str, words: Sequence[str]) -> str:
    return f"{name[:LONGEST]}-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:8]}"


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
