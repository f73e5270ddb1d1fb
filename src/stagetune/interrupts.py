"""Ctrl-C, and what a system sends instead of it: each stops what runs in the same way. No torch."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 5.0  # seconds in which one more signal means the same as the first: what stops takes a moment
_stopped_by: int | None = None  # the last one that was obeyed,
_stopped_at = 0.0  # and when
_heard: frozenset[int] = frozenset()  # those that raise `Stopped`
_listener = 0  # the process that hears them


class Stopped(KeyboardInterrupt):
    """What a signal raises in the main thread: of Ctrl-C's own kind, so that whatever ends well on it does on all."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@contextmanager
def heard() -> Iterator[None]:
    """Within, SIGINT, SIGTERM and SIGHUP raise `Stopped`, the next ones soon after do nothing; then all is as before.

    Handlers of a program's own stay, as does what is ignored (nohup); outside of the main thread nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _heard
    before, outside = {number: signal.getsignal(number) for number in NUMBERS}, _heard
    _heard = outside | _take(_stop)
    try:
        yield
    finally:
        _heard = outside
        for number, handler in before.items():
            signal.signal(number, handler)


def hear_again() -> None:
    """Let the signals be ours once more, where a library has put its own handlers in between.

    Raises `Stopped` where one has come, which some code has caught and gone on.
    """
    if not _heard or threading.current_thread() is not threading.main_thread():
        return
    for number in _heard:
        signal.signal(number, _stop)
    if _stopped_by is not None:
        raise Stopped(_stopped_by)


def end_on_signals() -> None:
    """From now on a signal ends the process in one line: nothing has begun that could be lost."""
    _take(_end)


def ignore_signals() -> None:
    """For the rest of a process that is ending."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def stopped_by() -> int | None:
    """The signal that was heard since somebody listens, if one was; what it raised may have been lost on the way."""
    return _stopped_by


def _take(handler: Callable[[int, FrameType | None], None]) -> frozenset[int]:
    """Let `handler` have the signals that nobody has; returns which."""
    global _stopped_by, _listener
    free = (signal.SIG_DFL, signal.default_int_handler, _end)
    taken = frozenset(number for number in NUMBERS if signal.getsignal(number) in free)
    if taken:
        _stopped_by, _listener = None, os.getpid()
    for number in taken:
        signal.signal(number, handler)
    return taken


def _stop(number: int, frame: FrameType | None) -> None:
    if _is_first(number):
        raise Stopped(number)


def _end(number: int, frame: FrameType | None) -> None:
    if _is_first(number):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, b"stagetune: interrupted; nothing has begun\n")
        os._exit(128 + number)


def _is_first(number: int) -> bool:
    """Whether a signal is to be obeyed; a forked child, such as a loader's worker, ends as it would by itself."""
    global _stopped_by, _stopped_at
    if os.getpid() != _listener:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return False
    if _stopped_by is not None and time.monotonic() - _stopped_at < PATIENCE:
        return False
    _stopped_by, _stopped_at = number, time.monotonic()
    return True
