"""Standard input, output and error, however the process was started: closed, on a full disk, read by nobody."""

import os
import sys
from contextlib import suppress
from io import TextIOWrapper, UnsupportedOperation


def open_streams() -> None:
    """Let standard streams that were closed lead nowhere, and let every name of a file pass through the others."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # else a file that is opened next gets its number, and with it what libraries print
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  (it stays open)
        elif name != "stderr" and isinstance(stream, TextIOWrapper):
            is_utf8 = stream.encoding.lower().replace("-", "") == "utf8"
            with suppress(OSError):  # opened as a file, and a pipe by now
                stream.reconfigure(errors="surrogateescape" if is_utf8 or name == "stdin" else "backslashreplace")


def drop_output() -> None:
    """Let what is still to be printed lead nowhere: at the end of the process it would fail once more."""
    with suppress(UnsupportedOperation):  # what a program has put in its place
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
