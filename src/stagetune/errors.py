"""User-facing errors: one class tree, each a message that says what, where and what to do."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from stagetune.visible import visible

LISTED = 40  # names that a message lists at most


class StagetuneError(Exception):
    """An error that a person can mend; it is shown as its message alone, without a traceback."""

    exit_code = 1  # of the process that it ends


class ConfigError(StagetuneError):
    """Every problem of a configuration at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{count} in the configuration:", *(f"  {line}" for line in self.problems)]))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str]]]:
        return type(self), (self.problems,)  # an error of another process comes pickled


class ScheduleError(StagetuneError):
    """A schedule that does not fit: one message, or a heading and every problem below it."""

    def __init__(self, message: str, *problems: str) -> None:
        super().__init__("\n  ".join([message, *problems]))
        self.problems = list(problems) or [message]


class DataError(StagetuneError):
    """Images, folders or splits that cannot be trained on."""


class WeightsError(StagetuneError):
    """Pretrained weights that cannot be found or do not fit."""


class ExportError(StagetuneError):
    """A model that cannot be written in another format."""


class MissingError(StagetuneError):
    """A library that an extra brings and that is not installed."""


class TrainingError(StagetuneError):
    """Training that cannot go on, such as a loss that is not a number."""


class Killed(TrainingError):
    """One of a run's processes was ended from outside, so that the others cannot go on."""


class Pruned(StagetuneError):
    """A trial of a search that is not worth going on with."""


class Interrupted(StagetuneError):
    """A person, or the system, stopped the run by a signal.

    Args:
        message: what was stopped, and how it goes on.
        number: of the signal; the process ends with 128 more, as a shell says it: 130 for Ctrl-C, 143 for SIGTERM.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number, self.exit_code = int(number), 128 + number


class ResultError(StagetuneError):
    """A result that cannot be written or read."""


def did_you_mean(word: str, valid: Sequence[str], prefix: str = "", otherwise: str = "") -> str:
    """The end of an error message: the nearest valid name, else all of them, and what there is `otherwise`."""
    alike = near(word, valid)
    more = f" and {len(valid) - LISTED} more" if len(valid) > LISTED else ""
    listed = ", ".join(f"{prefix}{name}" for name in valid[:LISTED])
    if alike:
        return f"did you mean {prefix}{alike}?"
    return f"valid: {listed}{more}" + (f". {otherwise}" if otherwise else "")


def near(word: str, valid: Sequence[str]) -> str | None:
    """The valid name that is most like a word; None if none is like it."""
    return next(iter(get_close_matches(word, valid, n=1, cutoff=0.5)), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came of, the last one first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def number_of(stop: BaseException) -> int:
    """The signal that stopped something, or that what stopped it came of; Ctrl-C where it is not known."""
    return next((int(one.number) for one in causes(stop) if hasattr(one, "number")), int(signal.SIGINT))


def show(error: StagetuneError) -> None:
    """Print an error's message to stderr; with STAGETUNE_TRACEBACK=1 also where it came from."""
    if os.environ.get("STAGETUNE_TRACEBACK") == "1":
        sys.excepthook(type(error), error, error.__traceback__)
    first, *more = visible(str(error)).split("\n")  # what stands at the left is ours, whatever a file is called
    print(
        "\n".join([f"stagetune: {first}", *(f"  {line.removeprefix('  ')}" for line in more)]),
        file=sys.stderr,
        flush=True,
    )


@contextmanager
def shown(interrupted: str = "interrupted before training began; nothing was written") -> Iterator[None]:
    """Turn a `StagetuneError` into its message on stderr and its exit code, and Ctrl-C into `interrupted`.

    Also where a library that it came to has made another error of it.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        ended = error
        if not isinstance(error, Interrupted) and any(isinstance(one, KeyboardInterrupt) for one in causes(error)):
            ended = Interrupted(interrupted, number_of(error))
        if not isinstance(ended, StagetuneError):
            raise
        show(ended)
        sys.exit(ended.exit_code)
