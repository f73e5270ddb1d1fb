"""Processes of their own that need no seconds to import torch, Lightning and the like, for tests that start many.

A server imports once what a run imports, and is forked for each command. What comes of it is a real process: it has
a pid, signals, an environment, a working folder and pipes of its own, and ends as any interpreter does, with its
`atexit` functions, a traceback, an exit code, or the signal that killed it.

It is not a cold start: a test of what is imported, of the memory that a process takes, or of what an import prints
calls `start_cold`. The processes that a command starts in turn (ranks, a launcher's workers) are cold, too.
"""

import atexit
import os
import pickle
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NoReturn

# what runs, sweeps and searches import; none begins a thread, which a fork would lack
IMPORTED_ONCE = ("stagetune.run", "stagetune.sweep.job", "hydra", "optuna")


class Command:
    """A process as `subprocess.Popen` shows one, though it is no child of this one: the server says how it ended."""

    def __init__(self, report: IO[bytes], stdout: IO[str], stderr: IO[str]) -> None:
        self.stdout, self.stderr = stdout, stderr
        self.returncode: int | None = None
        self._report = report
        self.pid = self._told()

    def poll(self) -> int | None:
        """The exit code, minus the signal's number if one killed it, or None as long as it runs."""
        return self.wait() if self.returncode is not None or self._ends_within(0) else None

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not self._ends_within(timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = self._told()
            self._report.close()
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """All that it prints, to stdout and to stderr, once it has ended."""
        printed = ["", ""]

        def read(number: int, pipe: IO[str]) -> None:
            with pipe:
                printed[number] = pipe.read()

        readers = [
            threading.Thread(target=read, args=of, daemon=True) for of in enumerate((self.stdout, self.stderr))
        ]
        for reader in readers:  # both at once: it would wait at a pipe that is full
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                raise subprocess.TimeoutExpired(f"what process {self.pid} has started", timeout or 0)
        return printed[0], printed[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _ends_within(self, timeout: float | None) -> bool:
        return bool(select.select([self._report], [], [], timeout)[0])

    def _told(self) -> int:
        line = self._report.readline()
        assert line, "the server that starts commands has died"
        return int(line)


def start(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> Command:
    """Begin what `python WORDS` does: a script and its arguments, or -m, a module and its arguments."""
    return _begin(_python, words, cwd=cwd, env=env)


def start_cold(*words: str, cwd: Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[str]":
    """The same in a new interpreter."""
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=env, text=True, **pipes)


def call(function: Callable[..., Any], *arguments: Any) -> Command:
    """Begin a function of some module in a process of its own."""
    # pickled by itself: it is found by this process's path
    return _begin(_call, sys.path, pickle.dumps((function, arguments)), cwd=Path.cwd())


def _begin(function: Callable[..., Any], *arguments: Any, cwd: Path, env: Mapping[str, str] | None = None) -> Command:
    (out, stdout), (err, stderr), (told, report) = os.pipe(), os.pipe(), os.pipe()
    with TemporaryFile() as request:  # an environment may be too long for one message
        pickle.dump((function, arguments, str(cwd), dict(os.environ if env is None else env)), request)
        request.seek(0)
        socket.send_fds(_server()[0], [b"!"], [request.fileno(), stdout, stderr, report])
    for end in (stdout, stderr, report):
        os.close(end)
    return Command(open(told, "rb", 0), open(out), open(err))


@cache
def _server() -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
    """A server of this process's own and the connection to it, with whose end it ends."""
    ours, theirs = socket.socketpair()
    code = f"import commands; commands._serve({theirs.fileno()})"
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=Path(__file__).parent, pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
    return ours, process


def _serve(connection: int) -> None:
    """Begin the commands that are asked for; returns when nobody can ask for more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest and the commands
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever waits for a command needs no waiting for
    for module in IMPORTED_ONCE:
        import_module(module)
    import numpy
    import torch

    own_path = [folder for folder in sys.path[1:] if folder not in _folders(os.environ)]
    with socket.socket(fileno=connection) as asked:
        while True:
            message, files, *_ = socket.recv_fds(asked, 1, 4)
            if not message:
                return
            if os.fork() == 0:
                break
            for file in files:
                os.close(file)
    request, stdout, stderr, report = files
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():  # this process does nothing but wait for the command
        os.close(stdout)
        os.close(stderr)
        os.write(report, b"%d\n" % pid)
        os.write(report, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.close(report)
    for number, end in ((1, stdout), (2, stderr)):
        os.dup2(end, number)
        os.close(end)
    with open(request, "rb") as content:
        function, arguments, cwd, environment = pickle.load(content)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [*_folders(environment), *own_path]
    numpy.random.seed()  # else these two draw the same in every command; Python's own generator starts anew in a fork
    torch.seed()
    _run(function, arguments)


def _run(function: Callable[..., None], arguments: tuple[Any, ...]) -> NoReturn:
    """Call it and end as an interpreter does, but for taking modules apart: that would copy all that is shared."""
    code, is_interrupted = 0, False
    try:
        function(*arguments)
    except SystemExit as end:
        if isinstance(end.code, int | None):
            code = (end.code or 0) & 0xFF
        else:
            code = 1
            print(end.code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code, is_interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as multiprocessing does
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if is_interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    os._exit(code)


def _folders(environment: Mapping[str, str]) -> list[str]:
    return [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]


def _python(words: tuple[str, ...]) -> None:
    if words[0] == "-m":
        sys.argv = list(words[1:])
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


def _call(path: list[str], pickled: bytes) -> None:
    sys.path[:] = path
    function, arguments = pickle.loads(pickled)
    function(*arguments)
