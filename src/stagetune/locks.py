"""One process at a time in a directory, a run's or a sweep's. No torch."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from stagetune.errors import ResultError


@contextmanager
def held(folder: Path, what: str, otherwise: str) -> Iterator[None]:
    """Hold a directory, which is made where it is not there; however a process ends, it holds nothing any more.

    Args:
        folder: in which the hidden file .lock lies meanwhile.
        what: it is the directory of: run or sweep.
        otherwise: what a person can do where another process holds it.

    Raises:
        ResultError: where another process holds it, or where it cannot be held.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", blocking=False)
        lock.acquire()
    except Timeout:
        raise ResultError(f"{folder}: another process is at this {what}; {otherwise}") from None
    except (OSError, NotImplementedError) as error:  # read-only, full, a file of that name, a system without locks
        why = getattr(error, "strerror", None) or error
        raise ResultError(f"{folder}: cannot be written and locked ({why}); choose another directory") from error
    try:
        yield
    finally:
        with suppress(OSError):  # some systems do not remove what is open
            (folder / ".lock").unlink()  # while it is held, so that nobody else's is removed
        lock.release()
