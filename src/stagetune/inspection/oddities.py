"""Which images are odd beside the others: dark, blurred, small for the network, or of an extreme shape."""

import numpy as np
import numpy.typing as npt

from stagetune.inspection.looks import Looks

DARK = 40.0  # of 255, the mean gray value below which an image may be dark
DARKER = 4.0  # times darker than the median that it has to be, too
SOFTER = 8.0  # times softer than in the median image that the strongest edges of a blurred one are
ENLARGED = 2.0  # times that the shorter side of a small image becomes as long
LONG = 3.0  # times that the longer side is as long as the shorter

IntArray = npt.NDArray[np.int64]


def dark(looks: Looks) -> IntArray:
    """The images that are dark, and far darker than the median, the darkest first; those of one colour aside."""
    limit = min(DARK, _median(looks.light, looks) / DARKER)
    return _sorted(looks.light, (looks.light < limit) & ~looks.flat)


def blurred(looks: Looks) -> IntArray:
    """The images whose strongest edges are far softer than in the median one, the softest first."""
    return _sorted(looks.sharp, (looks.sharp < _median(looks.sharp, looks) / SOFTER) & ~looks.flat)


def small(looks: Looks, size: int) -> IntArray:
    """The images whose shorter side is less than half of what the network sees, the smallest first."""
    shorter = looks.sides.min(axis=1)
    return _sorted(shorter, ENLARGED * shorter < size)


def long(looks: Looks) -> IntArray:
    """The images whose longer side is over three times the shorter one, the longest first."""
    shape = looks.sides.max(axis=1) / np.maximum(looks.sides.min(axis=1), 1)
    return _sorted(-shape, shape > LONG)


def _median(values: npt.NDArray[np.floating], looks: Looks) -> float:
    """Of the images that are not of one colour."""
    return float(np.median(values[~looks.flat])) if not looks.flat.all() else 0.0


def _sorted(values: npt.NDArray[np.floating] | IntArray, chosen: npt.NDArray[np.bool_]) -> IntArray:
    found = np.flatnonzero(chosen)
    return found[np.argsort(values[found], kind="stable")]
