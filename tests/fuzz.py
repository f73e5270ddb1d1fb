"""Damaged and edited files, made here: only the project's own errors may come of them, soon and in little memory.

    python -m tests.fuzz 20000                        # so many in all, spread over the kinds; 1 if anything else came
    python -m tests.fuzz --kind checkpoint --case 123 # one of them again, with its traceback; the file is kept

A case follows from the seed, the kind and its number alone. Each kind is tried in a process of its own, so that one
that ends it is noticed, too.
"""

import argparse
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # as pytest does, and `python -m tests.fuzz` does not

from commands import start
from stagetune.errors import StagetuneError

SECONDS = 5  # of computing
WAITING = 60  # seconds in all, on a busy machine
GROWTH, MOST = 2**30, 2**33  # bytes
NO_MEMORY = ("can't allocate memory", "bad alloc", "std::bad_alloc", "bad allocation", "Failed to allocate")


class Hang(BaseException):
    """No `except Exception` takes it for a damaged file."""


@dataclass
class Report:
    """What came of the cases of a kind: how many were tried, accepted and refused, and what was wrong by its place.

    Of the last there are the numbers of the cases, and the message of the first.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[int]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)


def fuzz(kind: str, cases: int, runs: Path, *, seed: int = 0) -> Report:
    """Try the cases of a kind, beginning with number 0, in a process of its own; another goes on where one ends."""
    report, first = Report(), 0
    while first < cases:
        last = None
        words = ["--kind", kind, "--runs", str(runs), "--seed", str(seed), "--from", str(first), "--to", str(cases)]
        process = start(__file__, *words, cwd=Path.cwd())
        printed, said = process.communicate()
        for line in printed.splitlines():
            number, outcome = line.split(" ", 1)
            first = int(number) + 1
            if outcome == "begun":
                last = int(number)
                continue
            report.counts["tried"] += 1
            if outcome in ("accepted", "refused"):
                report.counts[outcome] += 1
            else:
                where, _, message = outcome.partition(": ")
                report.wrong.setdefault(where, []).append(int(number))
                report.messages.setdefault(where, message)
        if process.returncode:
            if last is None:
                raise RuntimeError(f"{kind}: its seeds cannot be made or read: {said}")
            where = f"the process ended with {process.returncode}"
            report.counts["tried"] += 1
            report.wrong.setdefault(where, []).append(last)
            report.messages.setdefault(where, said[-500:])
            first = last + 1
    return report


def try_case(kind: str, number: int, seeds: list[Any], folder: Path, *, seed: int) -> Path:
    """Write a case's file, with those beside it, and return its path."""
    from mutations import mutated

    rng = Random(f"{seed} {kind} {number}")
    chosen, other = rng.choice(seeds), rng.choice(seeds)
    changed = mutated(rng, chosen.files[chosen.file], other.files[other.file], chosen.form)
    for name, content in chosen.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(changed if name == chosen.file else content)
    return folder / chosen.file


def work(kind: str, cases: range, runs: Path, *, seed: int) -> None:
    """Try cases in this process, and print a line as each begins and ends."""
    from fuzz_kinds import KINDS

    says = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no outcome
    os.cpu_count = lambda: 2  # the threads of a large machine would take memory of their own
    warnings.simplefilter("ignore")
    tried = KINDS[kind]
    seeds = tried.seeds(runs)
    for one in seeds:  # they are right; what is imported, and made once, is no growth
        with TemporaryDirectory() as folder:
            for name, content in one.files.items():
                (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).write_bytes(content)
            tried.read(Path(folder) / one.file)
    for number in cases:
        print(f"{number} begun", file=says, flush=True)
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = try_case(kind, number, seeds, Path(folder), seed=seed)
            outcome = outcome_of(tried.read, path, GROWTH)
            if outcome.startswith("memory") and kept_below(GROWTH, tried.read, path):
                outcome = "refused"  # it was asked for, as a file claims a length, and not used
        print(f"{number} {outcome}", file=says, flush=True)


def outcome_of(read: Callable[[Path], object], path: Path, growth: int) -> str:
    """What comes of reading a case, with so many bytes to be had: accepted, refused, or what is wrong and where."""
    limit_memory(growth)
    try:
        with watched():
            read(path)
    except StagetuneError as error:
        return "refused" if not lacked_memory(error) else f"memory {place(error)}"
    except Hang as error:
        return f"hang {place(error)}"
    except BaseException as error:
        return f"memory {place(error)}" if lacked_memory(error) else place(error)
    return "accepted"


def kept_below(growth: int, read: Callable[[Path], object], path: Path) -> bool:
    """Whether reading a case ends well and never fills so many bytes."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmHWM")
    return outcome_of(read, path, MOST) == "refused" and memory("VmHWM") - before < growth


@contextmanager
def watched() -> Iterator[None]:
    """Raise `Hang` in what computes, or waits, for too long; end the process where that is not taken note of."""

    def hang(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, hang)
    signal.signal(signal.SIGALRM, hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    faulthandler.dump_traceback_later(2 * WAITING, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()


def limit_memory(growth: int) -> None:
    """From now on no more than so many bytes can be had, where the system can say how many there are."""
    with suppress(OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (memory("VmData") + growth, resource.RLIM_INFINITY))


def memory(name: str) -> int:
    """Bytes that the kernel counts for this process under a name."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def lacked_memory(error: BaseException | None) -> bool:
    """Whether an error is, or comes of, memory that could not be had."""
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            return True
        error = error.__cause__ or error.__context__
    return False


def place(error: BaseException) -> str:
    """What was raised, and the innermost line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/stagetune/" in frame.filename] or frames
    where = f"{ours[-1].filename.rpartition('/stagetune/')[2]}:{ours[-1].lineno}"
    return f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:150]}".replace("\n", " ")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("total", nargs="?", type=int, default=2000, help="how many cases in all")
    parser.add_argument("--kind", help="of this kind alone")
    parser.add_argument("--case", type=int, help="this one again, with its traceback")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--from", dest="first", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--to", dest="last", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.last is not None:
        work(given.kind, range(given.first, given.last), given.runs, seed=given.seed)
        return 0
    from fuzz_kinds import KINDS, make_runs

    if given.kind and given.kind not in KINDS:
        parser.error(f"--kind {given.kind}: there are {', '.join(KINDS)}")
    with TemporaryDirectory() as folder:
        runs = Path(folder)
        make_runs(runs)
        if given.case is not None:
            path = try_case(given.kind, given.case, KINDS[given.kind].seeds(runs), Path(mkdtemp()), seed=given.seed)
            print(path)
            with watched():
                KINDS[given.kind].read(path)
            return 0
        chosen = [given.kind] if given.kind else list(KINDS)
        wrong, all_counts = 0, []
        for i, kind in enumerate(chosen):
            begun = time.monotonic()
            report = fuzz(kind, given.total // len(chosen) + (i < given.total % len(chosen)), runs, seed=given.seed)
            for what, numbers in report.wrong.items():
                again = "" if not given.seed else f" --seed {given.seed}"
                print(f"{kind}: {len(numbers)} times {what}: {report.messages[what]}")
                print(f"    python -m tests.fuzz --kind {kind} --case {numbers[0]}{again}")
            wrong += sum(map(len, report.wrong.values()))
            counts = report.counts
            all_counts.append(f"{kind} {counts['tried']}/{counts['accepted']}/{counts['refused']}")
            print(
                f"{kind}: {counts['tried']} tried, {counts['accepted']} accepted, {counts['refused']} refused, "
                f"{time.monotonic() - begun:.0f} s",
                flush=True,
            )
        print(f"tried/accepted/refused: {', '.join(all_counts)}; {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
