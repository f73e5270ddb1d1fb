"""Which files are images: by what is in them, not by what they are called. No torch."""

import logging
import os
import stat
import struct
from functools import cache
from pathlib import Path
from typing import IO

from PIL import Image, ImageFile, TiffImagePlugin

from stagetune.errors import DataError

# EPS is a program for Ghostscript; of the others Pillow knows the beginning alone, or asks another program
NOT_READ = frozenset({"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
CERTAIN = frozenset({"AVIF", "DDS", "GIF", "JPEG", "JPEG2000", "PNG", "PSD", "QOI", "TIFF", "WEBP"})  # by long marks
LONGEST = 120  # characters of a reason
HEAD = 32  # bytes that tell a format
HEIF = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
MANY_CHANNELS = "has {} channels; at most four are read, of gray or colour and alpha"


logging.getLogger("PIL").addHandler(logging.NullHandler())  # what is wrong with a file is said in our words


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_READ)


@cache
def suffixes() -> frozenset[str]:
    """What the names of their files end in."""
    known = set(formats())
    found = {suffix for suffix, name in Image.registered_extensions().items() if name in known}
    return frozenset(found | HEIF_SUFFIXES)


def is_image(path: Path) -> bool:
    """Whether a file is an image: it is called as one is, or begins as one does. Hidden files are none.

    Nothing that is no regular file is opened, such as a named pipe, at which a reader would wait for ever.
    """
    if path.name.startswith("."):
        return False
    is_called_so = path.suffix.lower() in suffixes()
    if not is_regular(path):
        return is_called_so and not os.path.exists(path)  # such as a link to nowhere: reading it says why
    return is_called_so or begins_as_image(path)


def is_regular(path: Path) -> bool:
    """Whether it is a file of bytes, or a link to one; not a folder, a pipe, a device or a link in a circle."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def begins_as_image(path: Path) -> bool:
    """Whether its first bytes are those of a format that is read.

    Some formats begin with two letters, as a text may: of those the whole header must be one.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            accepting = _accepting(head)
            if CERTAIN.intersection(accepting) or is_heif(head):
                return True
            return not isinstance(_try(file, accepting), Exception)
    except OSError:
        return False


def is_heif(head: bytes) -> bool:
    """Whether a file that begins so is HEIC or HEIF, as telephones write it; AVIF may begin by the same brand."""
    return head[4:8] == b"ftyp" and head[8:12] in HEIF and b"avif" not in head and b"avis" not in head


def open_regular(path: Path) -> IO[bytes]:
    """A file to read from.

    Raises:
        DataError: where it is a folder, a pipe or a device; nothing such is opened.
        OSError: where it is not there, or may not be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError("is no file, but a folder, a pipe or a device")
    return path.open("rb")


def open_image(file: IO[bytes]) -> ImageFile.ImageFile:
    """The image in an open file, its header read and nothing decoded.

    As `PIL.Image.open`, but for the formats that are read alone, and without Pillow's limit on pixels, which warns or
    raises by one number for the whole process.

    Raises:
        DataError: where it is none, in words that say what it is where that is known.
    """
    file.seek(0)
    head = file.read(HEAD)
    if not head:
        raise DataError("is empty")
    unmarked = [name for name in formats() if Image.OPEN[name][1] is None]  # by no first bytes: TGA and the like
    accepting = _accepting(head)
    found = _try(file, [*accepting, *unmarked])
    if isinstance(found, Exception) and is_heif(head):
        _register_heif()
        found = _try(file, ["HEIF"])
    if isinstance(found, Exception):
        raise DataError(_why_not(file, head, found)) from found
    if isinstance(found, TiffImagePlugin.TiffImageFile):
        _check_tiff(found)
    return found


def _accepting(head: bytes) -> list[str]:
    """The formats that begin so."""
    padded = head.ljust(HEAD, b"\0")  # some look at numbers that a shorter file lacks
    return [name for name in formats() if (accept := Image.OPEN[name][1]) is not None and accept(padded) is True]


def _try(file: IO[bytes], names: list[str]) -> ImageFile.ImageFile | Exception:
    """The image as the first of these formats that takes it, or why the first of them does not."""
    why: Exception | None = None
    for name in names:
        file.seek(0)
        try:
            return Image.OPEN[name][0](file, "")
        except Exception as error:  # Pillow's readers raise many types for what is not theirs, or is damaged
            why = why or error
    return why or DataError("it begins as none")


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise DataError("is HEIC, which needs pip install 'stagetune[heif]'") from error
    if "HEIF" not in Image.OPEN:
        register_heif_opener()


def _why_not(file: IO[bytes], head: bytes, error: Exception) -> str:
    for name in Image.ID:
        accept = Image.OPEN[name][1]
        found = accept(head.ljust(HEAD, b"\0")) if accept is not None else False
        if isinstance(found, str):
            return f"is {name}, which this Pillow was built without"
        if found and name in NOT_READ:
            return f"is {name}, which is not read; save it as PNG"
        if found and name == "TIFF":
            return _why_no_tiff(file)
        if found:
            return f"begins as {name}, but is damaged ({reason(error)})"
    return "is no image in a format that Pillow reads"


def reason(error: Exception) -> str:
    """Why an image cannot be read, in one short line without control characters."""
    if isinstance(error.__cause__ or error, struct.error | IndexError | EOFError):
        return "it ends too early"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = "".join(letter if letter.isprintable() else " " for letter in said).strip()
    return f"{line[:LONGEST]}…" if len(line) > LONGEST else line


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raise `DataError` for a layout that Pillow takes and gives something else of."""
    tags = image.tag_v2
    channels, bits = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1), tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    if channels > 4:  # it drops the others
        raise DataError(MANY_CHANNELS.format(channels))
    if channels > 1 and max(bits) > 8 and tags.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2:
        raise DataError(
            "is a TIFF of 16 bits with each channel by itself, which Pillow misreads; save it interleaved"
        )


def _why_no_tiff(file: IO[bytes]) -> str:
    """A TIFF that Pillow does not take has its channels and bits said in its first tags."""
    try:
        file.seek(0)
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        if TiffImagePlugin.IMAGEWIDTH not in tags:
            return "begins as TIFF, but is damaged"
        channels, bits = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)), tags.get(TiffImagePlugin.BITSPERSAMPLE)
    except Exception:  # whatever is wrong with them
        return "begins as TIFF, but is damaged"
    if channels > 4:
        return MANY_CHANNELS.format(channels)
    each = f" of {bits[0]} bits" if isinstance(bits, tuple) and bits else ""
    return f"is a TIFF of {channels} channel{'s' * (channels != 1)}{each} in a layout that Pillow does not read"
