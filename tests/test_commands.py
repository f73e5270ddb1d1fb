"""Processes that are forked from a warm server cannot be told from those that Python starts, but by their speed."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen, TimeoutExpired

import pytest

from commands import Command, call, start, start_cold

Start = Callable[..., Command | Popen[str]]

pytestmark = pytest.mark.slow
either = pytest.mark.parametrize("begin", [start, start_cold])

LOOKS = """
import json, os, random, signal, sys, threading
import numpy
import torch
print(json.dumps({
    "argv": sys.argv, "name": __name__, "file": __file__, "path": sys.path, "cwd": os.getcwd(),
    "environment": dict(os.environ), "main": sys.modules["__main__"].__dict__ is globals(), "umask": os.umask(0),
    "files": [number for number in range(20) if os.path.exists(f"/proc/self/fd/{number}")],
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "blocked": list(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "threads": threading.active_count(),
    "buffered": [sys.stdout.line_buffering, sys.stdout.encoding, sys.stderr.line_buffering, sys.stderr.errors],
    "group": os.getpgid(0), "session": os.getsid(0), "filters": len(sys.warnoptions),
    "torch": [torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()],
}))
print(json.dumps([os.getpid(), random.random(), numpy.random.random(), torch.initial_seed()]), file=sys.stderr)
"""


def test_it_finds_what_any_process_finds_and_has_numbers_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "looks.py").write_text(LOOKS)
    environment = {**os.environ, "FOR": "one command"}
    begun = [begin(str(tmp_path / "looks.py"), "a", "b c", cwd=tmp_path, env=environment)
             for begin in (start_cold, start, start)]  # fmt: skip
    found, numbers = zip(*(map(json.loads, process.communicate(timeout=60)) for process in begun), strict=True)
    assert found[0] == found[1] == found[2]
    assert [pid for pid, *_ in numbers] == [process.pid for process in begun]
    assert all(len(set(drawn)) == 3 for drawn in zip(*numbers, strict=True))


@either
def test_a_module_is_started_by_its_name(begin: Start, tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text("import sys\nprint(__name__, sys.argv[1:], sys.path[0])")
    process = begin("-m", "said", "aloud", cwd=tmp_path)
    assert process.communicate(timeout=60) == (f"__main__ ['aloud'] {tmp_path}\n", "")


@either
def test_all_that_it_prints_arrives_also_what_it_prints_at_its_end(begin: Start, tmp_path: Path) -> None:
    (tmp_path / "prints.py").write_text(
        "import atexit, subprocess, sys\natexit.register(print, 'the end')\n"
        "for i in range(100_000): print(i); print(-i, file=sys.stderr)\n"
        "sys.stdout.flush(); subprocess.run(['echo', 'of a child'])\n"
    )
    process = begin(str(tmp_path / "prints.py"), cwd=tmp_path)
    out, err = process.communicate(timeout=60)
    assert out == "".join(f"{i}\n" for i in range(100_000)) + "of a child\nthe end\n"
    assert err == "".join(f"{-i}\n" for i in range(100_000))
    assert process.returncode == 0


@either
@pytest.mark.parametrize(
    ("code", "returncode", "last"),
    [
        ("raise ValueError('wrong')", 1, "ValueError: wrong"),
        ("import sys; sys.exit('no more')", 1, "no more"),
        ("import sys; sys.exit(7)", 7, None),
        ("import os; os.abort()", -6, None),
    ],
)
def test_it_ends_with_its_own_exit_code(
    code: str, returncode: int, last: str | None, begin: Start, tmp_path: Path
) -> None:
    (tmp_path / "ends.py").write_text(code)
    process = begin(str(tmp_path / "ends.py"), cwd=tmp_path)
    _, err = process.communicate(timeout=60)
    assert process.returncode == returncode
    assert err.splitlines()[-1:] == ([last] if last else [])


WAITS = """
import sys, time
print("begun", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
    if sys.argv[1:]:
        sys.exit(3)
    raise
"""


@either
@pytest.mark.parametrize(
    ("words", "number", "returncode", "said", "last"),
    [
        ((), signal.SIGKILL, -9, "", []),
        ((), signal.SIGTERM, -15, "", []),
        ((), signal.SIGINT, -2, "interrupted\n", ["KeyboardInterrupt"]),
        (("catch",), signal.SIGINT, 3, "interrupted\n", []),
    ],
)
def test_a_signal_does_to_it_what_it_does_to_any(
    words: tuple[str, ...], number: int, returncode: int, said: str, last: list[str], begin: Start, tmp_path: Path
) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    process = begin(str(tmp_path / "waits.py"), *words, cwd=tmp_path)
    assert process.stdout
    assert process.stdout.readline() == "begun\n"
    assert process.poll() is None
    with pytest.raises(TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, process.poll(), process.wait()) == (returncode,) * 3
    assert out == said
    assert err.splitlines()[-1:] == last
    process.send_signal(number)  # to nobody: it has ended
    assert not Path(f"/proc/{process.pid}").exists()


def test_a_function_of_a_test_is_called_in_a_process_of_its_own(tmp_path: Path) -> None:
    process = call(_writes, tmp_path / "pid")
    assert process.wait(60) == 5
    assert (tmp_path / "pid").read_text() == str(process.pid) != str(os.getpid())


def _writes(path: Path) -> None:
    path.write_text(str(os.getpid()))
    raise SystemExit(5)
