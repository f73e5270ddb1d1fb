"""The search for the nearest vectors, beside a float64 brute force."""

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
import torch
from benchmarks.search import lines
from hypothesis import given, settings
from hypothesis import strategies as st

from stagetune.inference import search
from stagetune.inference.search import Float32, Vectors, nearest
from stagetune.models.distances import measure

DISTANCES = ("euclidean", "squared", "cosine", "weighted_l1")


def brute_force(
    queries: Float32, vectors: Float32, k: int, distance: str, groups: list[int] | None = None
) -> tuple[list[list[int]], list[list[float]]]:
    """All distances in float64, sorted by distance, group and place; of each group the first."""
    groups = list(range(len(vectors))) if groups is None else groups
    places, distances = [], []
    for query in queries.astype(np.float64):
        difference = vectors.astype(np.float64) - query
        squared = (difference**2).sum(1)
        apart = {
            "euclidean": squared**0.5,
            "squared": squared,
            "cosine": squared / 2,
            "weighted_l1": abs(difference).sum(1),
        }[distance].tolist()
        first: dict[int, tuple[float, int]] = {}
        for value, group, place in sorted(zip(apart, groups, range(len(vectors)), strict=True)):
            first.setdefault(group, (value, place))
        places.append([place for _, place in list(first.values())[:k]])
        distances.append([value for value, _ in list(first.values())[:k]])
    return places, distances


def unit(rng: np.random.Generator, count: int, width: int) -> Float32:
    vectors = rng.standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def duplicates(rng: np.random.Generator, count: int, width: int) -> Float32:
    return unit(rng, 1 + count // 7, width)[rng.integers(0, 1 + count // 7, count)]


def almost_one_point(rng: np.random.Generator, count: int, width: int) -> Float32:
    """Apart by a few units in the last place, which a product in float32 cannot tell."""
    steps = rng.integers(-3, 4, (count, width)) * np.float32(2**-23)
    return (unit(rng, 1, width) + steps).astype(np.float32)


def grid(rng: np.random.Generator, count: int, width: int) -> Float32:
    return rng.integers(-1, 2, (count, width)).astype(np.float32)


def of_any_length(rng: np.random.Generator, count: int, width: int) -> Float32:
    return (unit(rng, count, width) * 10 ** rng.uniform(-3, 3, (count, 1))).astype(np.float32)


def too_long_for_a_product(rng: np.random.Generator, count: int, width: int) -> Float32:
    return unit(rng, count, width) * np.float32(1e30)


def too_short_for_a_product(rng: np.random.Generator, count: int, width: int) -> Float32:
    return unit(rng, count, width) * np.float32(1e-21)


KINDS = (unit, duplicates, almost_one_point, grid, of_any_length, too_long_for_a_product, too_short_for_a_product)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # squares of what is too long for a product
@pytest.mark.parametrize(
    "sizes", [{"BLOCK": 512}, {"BLOCK": 4, "ROWS": 8, "CACHED": 40, "SCORES": 150}], ids=["one block", "many blocks"]
)
@settings(max_examples=250, deadline=None)
@given(
    distance=st.sampled_from(DISTANCES), kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32),
    count=st.integers(1, 200), k=st.integers(1, 12), has_groups=st.booleans(),
)  # fmt: skip
def test_the_search_finds_what_a_brute_force_does(
    sizes: dict[str, int], distance: str, kind: Callable[[np.random.Generator, int, int], Float32], seed: int,
    count: int, k: int, has_groups: bool,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    width = int(rng.integers(1, 40))
    vectors = kind(rng, count + 3, width)
    queries, vectors = np.concatenate([vectors[:3], vectors[-2:]]), vectors[3:]
    groups = np.unique(rng.integers(0, rng.integers(1, 30), count), return_inverse=True)[1] if has_groups else None
    with patch.multiple(search, **sizes):
        places, distances = nearest(queries, Vectors(vectors, groups), k, distance)
    expected = brute_force(queries, vectors, k, distance, None if groups is None else groups.tolist())
    assert places.tolist() == expected[0]
    with np.errstate(over="ignore"):
        rounded = np.array(expected[1]).astype(np.float32)
    np.testing.assert_allclose(distances, rounded, rtol=2**-23, atol=2**-126)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_those_of_the_model(distance: str) -> None:
    vectors = unit(np.random.default_rng(0), 8, 128)
    _, distances = nearest(vectors[:1], vectors[1:], 1, distance)
    assert distances.item() == pytest.approx(
        measure(torch.from_numpy(vectors[1:] - vectors[0]), distance).min().item()
    )


def test_of_equal_vectors_the_first_is_nearest_however_many_there_are() -> None:
    vectors = np.repeat(unit(np.random.default_rng(0), 1, 128), 3000, axis=0)
    places, distances = nearest(vectors[:2], vectors, 4)
    assert places.tolist() == [[0, 1, 2, 3]] * 2
    assert not distances.any()


def test_there_may_be_nothing_to_find_or_to_ask() -> None:
    nothing, something = np.empty((0, 5), np.float32), np.ones((2, 5), np.float32)
    assert nearest(something, nothing, 3)[0].shape == (2, 0)
    assert nearest(nothing, something, 3)[0].shape == (0, 2)


def test_few_vectors_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    honest = search._apart
    monkeypatch.setattr(search, "_apart", lambda q, v, distance: measured.append(len(v)) or honest(q, v, distance))
    vectors = unit(np.random.default_rng(0), 20_000, 128)
    nearest(vectors[:10], Vectors(vectors, np.arange(20_000) // 5), 5)
    assert sum(measured) < 10 * 10


def test_the_benchmark_runs() -> None:
    shown = lines(count=3000, width=16, rounds=2)
    assert shown[0] == "3,000 x 16 float32, k=5, 2 rounds"
    assert sum("times that" in line for line in shown) == 8
