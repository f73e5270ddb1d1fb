"""Which view of an image each visit sees: pure functions. A view is an augmentation of it, known by its number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stagetune.data.source import IntArray

_64_BITS = 2**64 - 1


def mix(*numbers: Any) -> Any:
    """64 bits of several numbers, far apart for near inputs: a step of SplitMix64 (Steele, Lea, Flood 2014) for each.

    Args:
        numbers: whole ones of at least 0, or arrays of them as uint64, which are broadcast.
    """
    mixed: Any = 0
    for number in numbers:
        mixed = (mixed ^ number) + 0x9E3779B97F4A7C15 & _64_BITS
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _64_BITS
        mixed = mixed ^ mixed >> 31
    return mixed


def seed_of(*numbers: int) -> int:
    """One seed of several numbers, as torch takes it."""
    seed: int = mix(*numbers) >> 1
    return seed


def views_of(visits: Sequence[int] | IntArray, images: IntArray, *, seed: int, views: int) -> IntArray:
    """The view that each visit sees.

    Args:
        visits: how many times each image came before, [n].
        images: the index of each in its source, [n].
        seed: of the run.
        views: so many of each image are seen in turn, all of them once in so many visits, each time in an order that
            is drawn anew; 0 for another one at each visit.

    Returns:
        Numbers below `views`, or of 63 bits, [n].
    """
    if views == 1:
        return np.zeros(len(visits), dtype=np.int64)
    visit, image = (np.asarray(numbers).astype(np.uint64) for numbers in (visits, images))
    if not views:
        drawn: npt.NDArray[np.uint64] = mix(seed, image, visit) >> 1
        return drawn.astype(np.int64)
    turn, place = visit // views, visit % views
    order = mix(seed, image[:, None], turn[:, None], np.arange(views, dtype=np.uint64)).argsort(axis=1)
    seen: IntArray = order[np.arange(len(visit)), place.astype(np.int64)]
    return seen
