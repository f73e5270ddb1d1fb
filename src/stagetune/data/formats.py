"""Which files are images: by what is in them, not by what they are called. No torch."""

import os
import stat
from functools import cache
from pathlib import Path

from PIL import Image

# EPS is a program for Ghostscript; the others are decoded by what somebody else registers, or not at all
NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
HEAD = 32  # bytes that tell a format


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_READ)


@cache
def suffixes() -> frozenset[str]:
    """What the names of their files end in."""
    known = set(formats())
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def is_image(path: Path) -> bool:
    """Whether a file is an image: it is called as one is, or begins as one does. Hidden files are none.

    Nothing that is no regular file is opened, such as a named pipe, at which a reader would wait for ever.
    """
    if path.name.startswith(".") or not is_regular(path):
        return False
    return path.suffix.lower() in suffixes() or begins_as_image(path)


def is_regular(path: Path) -> bool:
    """Whether it is a file of bytes, or a link to one; not a folder, a pipe, a device or a link in a circle."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def begins_as_image(path: Path) -> bool:
    """Whether its first bytes are those of a format that is read."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return False
    accepts = (Image.OPEN[name][1] for name in formats())
    padded = head.ljust(HEAD, b"\0")  # some look at numbers that a shorter file lacks
    return bool(head) and any(accept(padded) is True for accept in accepts if accept is not None)
