"""The nearest of many vectors, exactly: no index, no approximation. On plain arrays, without torch."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Places = NDArray[np.int64]

SCORES = 2**26  # computed at once, 256 MiB of them
CACHED = 2**20  # of them a product gives, few enough to be near when the best of each block is taken
ROWS = 4096  # whose differences are taken at once, so that they stay in the cache
BLOCK = 512  # scores of which the best is looked at first
LARGEST = 1e30  # squares beyond it leave too little room before float32 overflows


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors to search in, with what every search needs of them, computed once.

    Args:
        array: [n, d] float32, finite.
        groups: [n], of each vector the group, 0 to g - 1; None: each is its own.
    """

    array: Float32
    groups: Places | None = None

    @cached_property
    def count(self) -> int:
        """How many groups there are."""
        return len(self.array) if self.groups is None else int(self.groups.max(initial=-1)) + 1

    @cached_property
    def squares(self) -> Float32:
        """Squared lengths, [n], computed in float64."""
        with np.errstate(over="ignore"):  # endless in float32: then every vector is measured
            squares: Float32 = np.einsum("nd,nd->n", self.array, self.array, dtype=np.float64).astype(np.float32)
        return squares

    @cached_property
    def longest(self) -> float:
        """The largest of the squared lengths."""
        return float(self.squares.max(initial=0))


def nearest(
    queries: Float32, vectors: Vectors | Float32, k: int, distance: str = "euclidean"
) -> tuple[Places, Float32]:
    """The k groups of vectors that are nearest to each query, the nearest first, each by its nearest vector.

    Distances are those of `models.distances`, from differences in float64, and decide the order before they are
    rounded to float32. Of equal ones the lower group comes first, and in a group the lower place. What need not be
    measured is told by a product in float32: all that could be among the k within its rounding error is measured.

    Args:
        queries: [m, d] float32, finite.
        vectors: to search in; of an array each vector is a group.
        k: how many are wanted; where there are fewer, all are given.
        distance: "euclidean", "squared", "cosine" or "weighted_l1", for the last of which every vector is measured.

    Returns:
        Places among the vectors and distances, both [m, k].
    """
    if not isinstance(vectors, Vectors):
        vectors = Vectors(np.ascontiguousarray(vectors, np.float32))
    queries = np.ascontiguousarray(queries, np.float32)
    k = min(k, vectors.count)
    places, distances = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    if places.size == 0:
        return places, distances
    slack = _slack(queries, vectors, distance)
    at_once = max(1, SCORES // len(vectors.array))
    for first in range(0, len(queries), at_once):
        block = queries[first : first + at_once]
        scores = _scores(block, vectors) if math.isfinite(slack) else None
        for row, query in enumerate(block):
            if scores is None:
                near = np.arange(len(vectors.array))
            else:
                near = _best(scores[0][row], scores[1][row], k, 2 * slack, vectors.groups)
            places[first + row], distances[first + row] = _measured(query, vectors, near, k, distance)
    return places, distances


def _scores(queries: Float32, vectors: Vectors) -> tuple[Float32, Float32]:
    """[m, n], higher for nearer: 2 q.v - v.v, which is q.q less the square of the distance; and their `_tops`."""
    count = len(vectors.array)
    scores = np.empty((len(queries), count), np.float32)
    tops = np.empty((len(queries), -(-count // BLOCK)), np.float32)
    doubled = 2 * queries
    step = max(1, CACHED // len(queries) // BLOCK) * BLOCK
    for first in range(0, count, step):
        rows = slice(first, first + step)
        part = np.subtract(doubled @ vectors.array[rows].T, vectors.squares[rows], out=scores[:, rows])
        tops[:, first // BLOCK : (first + step) // BLOCK] = _tops(part)
    return scores, tops


def _tops(scores: NDArray[Any]) -> NDArray[Any]:
    """The best of each block of scores [..., n]."""
    tops: NDArray[Any] = np.maximum.reduceat(scores, np.arange(0, scores.shape[-1], BLOCK), axis=-1)
    return tops


def _slack(queries: Float32, vectors: Vectors, distance: str) -> float:
    """By how much a score may be wrong; infinite where scores say nothing of the distance.

    A product of d terms in float32 is wrong by at most d units of rounding times the lengths, in whatever order it is
    summed up (Higham 2002, section 3.1); eight more are for the square, the difference and the comparison.
    """
    longest, asked = vectors.longest, Vectors(queries).longest
    if distance == "weighted_l1" or longest + asked > LARGEST:
        return math.inf
    width = int(queries.shape[1])
    unit = float(np.finfo(np.float32).eps) / 2
    smallest = width * float(np.finfo(np.float32).tiny)  # what is lost of numbers that are too small for float32
    return (width + 8) * unit * 1.01 * (2 * math.sqrt(longest * asked) + longest) + 4 * smallest


def _best(scores: NDArray[Any], tops: NDArray[Any], k: int, slack: float, groups: Places | None) -> Places:
    """Places that could be among the k best groups and the best of their group, if scores may differ by `slack`.

    Few scores are looked at one by one: the k-th best of the blocks' `tops` is at most the k-th best score.
    """
    wanted = k
    while True:
        bound = float(np.partition(tops, -wanted)[-wanted]) if wanted < len(tops) else -math.inf
        blocks = np.flatnonzero(tops >= bound - slack)
        places = (blocks[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        places = places[places < len(scores)]
        places = places[scores[places] >= bound - slack]
        found = scores[places]
        best = best_of_each = found
        if groups is not None:
            names, inverse = np.unique(groups[places], return_inverse=True)
            best = np.full(len(names), -math.inf, scores.dtype)
            np.maximum.at(best, inverse, found)
            best_of_each = best[inverse]
        if len(best) >= k or bound == -math.inf:
            break
        wanted *= 4  # all within the bound are of fewer groups
    bound = float(np.partition(best, -k)[-k])
    chosen: Places = places[found >= np.maximum(best_of_each, bound) - slack]
    return chosen


def _measured(query: Float32, vectors: Vectors, near: Places, k: int, distance: str) -> tuple[Places, Float64]:
    """The k nearest of the vectors at some places, and how far they are: [k] each."""
    apart = np.concatenate(
        [_apart(query, vectors.array[near[first : first + ROWS]], distance) for first in range(0, len(near), ROWS)]
    )
    group = near if vectors.groups is None else vectors.groups[near]
    few = _best(-apart, _tops(-apart), k, 0.0, None if vectors.groups is None else group)
    order = few[np.lexsort((near[few], group[few], apart[few]))]
    _, first_of_each = np.unique(group[order], return_index=True)
    chosen = order[np.sort(first_of_each)[:k]]
    return near[chosen], apart[chosen]


def _apart(query: Float32, vectors: Float32, distance: str) -> Float64:
    """How far vectors [n, d] are from a query [d]: [n], the same for the same vector wherever it stands."""
    difference = vectors.astype(np.float64) - query
    if distance == "weighted_l1":
        absolute: Float64 = np.abs(difference).sum(axis=1)
        return absolute
    squared: Float64 = np.square(difference).sum(axis=1)
    if distance == "euclidean":
        return np.sqrt(squared)
    return squared / 2 if distance == "cosine" else squared
