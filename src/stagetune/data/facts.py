"""What is known of images once they were decoded, and what follows for all of a data set. No torch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stagetune.errors import DataError

BITS = (8, 10, 12, 14, 16)  # those that cameras and scanners have
NAMED = 5  # images in one note
FADED = 16  # shades, of 256, that are few


@dataclass(frozen=True)
class Range:
    """The values of deep images (more than 8 bits a channel) that become black and white, of a whole data set."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:.6g} to {self.high:.6g}"


@dataclass(frozen=True)
class Facts:
    """What was found of an image as it was first decoded.

    Attributes:
        content: a key; equal keys are the same picture.
        format: Pillow's name of it, such as JPEG.
        mode: Pillow's name of it, such as RGB; RGB;16 for colours of 16 bits, for which Pillow has none.
        width: in pixels, as it is stored.
        height: likewise.
        low: the least value of a deep image; None for one of 8 bits.
        high: the largest, likewise.
        is_flat: whether all of it is of one colour.
        frames: how many it has, or pages; the first is taken.
    """

    content: str
    format: str
    mode: str
    width: int
    height: int
    low: float | None = None
    high: float | None = None
    is_flat: bool = False
    frames: int = 1


def range_of(facts: Iterable[Facts]) -> Range | None:
    """The range of a data set's deep images; None where it has none.

    Raises:
        DataError: for whole numbers beside floats, which no one range fits.
    """
    deep = [(one.low, one.high, one.mode == "F") for one in facts if one.low is not None and one.high is not None]
    if not deep:
        return None
    floats = sum(is_float for _, _, is_float in deep)
    if 0 < floats < len(deep):
        raise DataError(
            f"{floats} images have floats, and {len(deep) - floats} have whole numbers of more than 8 bits, which no "
            "one range fits; say one, such as data.range=[0,4095], or store them alike"
        )
    return fitting(min(low for low, _, _ in deep), max(high for _, high, _ in deep), is_float=floats > 0)


def fitting(low: float, high: float, *, is_float: bool) -> Range:
    """The range for values from `low` to `high`.

    Whole numbers: from 0 to the largest number of 8, 10, 12, 14 or 16 bits, the first that holds all. Floats between
    0 and 1: from 0 to 1. Others, and where there are negative ones: from the least to the largest.
    """
    tops = [1.0] if is_float else [2.0**bits - 1 for bits in BITS]
    top = next((top for top in tops if high <= top), None)
    return Range(low, high) if low < 0 or top is None else Range(0.0, top)


def notes_of(facts: Sequence[Facts], name_of: Callable[[int], str], scale: Range | None) -> list[str]:
    """What is said once of a data set's images: how deep ones are scaled, which have several frames or no picture."""
    notes = []
    if deep := sum(one.low is not None for one in facts):
        notes.append(f"deep images: {scale} become black to white in {_count(deep)} of more than 8 bits")
    if beyond := [name_of(i) for i, one in enumerate(facts) if scale and _is_beyond(one, scale)]:
        notes.append(f"{_count(len(beyond))} of values beyond that, which are cut off: {_some(beyond)}")
    if faded := [name_of(i) for i, one in enumerate(facts) if scale and _is_faded(one, scale)]:
        notes.append(
            f"{_count(len(faded))} of {FADED} shades or fewer by that range (or say data.range): {_some(faded)}"
        )
    if several := sum(one.frames > 1 for one in facts):
        notes.append(f"{_count(several)} of several frames or pages; the first is taken")
    if flat := [name_of(i) for i, one in enumerate(facts) if one.is_flat]:
        notes.append(f"{_count(len(flat))} of one colour alone: {_some(flat)}")
    return notes


def _is_beyond(facts: Facts, scale: Range) -> bool:
    return facts.low is not None and facts.high is not None and (facts.low < scale.low or facts.high > scale.high)


def _is_faded(facts: Facts, scale: Range) -> bool:
    """Whether few of the 256 shades are left, as of 12 bits where one image has a pixel of 16, or of floats to 1."""
    if facts.low is None or facts.high is None or facts.is_flat:
        return False
    width = scale.high - scale.low or 1.0
    darkest, brightest = (min(max(255 * (v - scale.low) // width, 0), 255) for v in (facts.low, facts.high))
    return brightest - darkest < FADED


def _count(number: int) -> str:
    return f"{number} images" if number != 1 else "1 image"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
