"""The pairs that a verification is measured on, and what is taken as embeddings."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stagetune.errors import DataError
from stagetune.evaluation.pairs import drawn_pairs, evaluation_pairs
from stagetune.evaluation.retrieval import nearest_others, retrieval
from stagetune.evaluation.roc import Roc
from stagetune.evaluation.verification import all_pairs, report


@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=8), limit=st.sampled_from([10, 100, 10_000]))
def test_pairs_are_balanced_different_and_the_same_every_time(sizes: list[int], limit: int) -> None:
    identity = np.repeat(np.arange(len(sizes)), sizes)
    first, second = evaluation_pairs(identity, limit)
    assert (first < second).all()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first) <= limit
    is_same = identity[first] == identity[second]
    every_same = sum(n * (n - 1) // 2 for n in sizes)
    assert is_same.sum() == min(every_same, limit // 2)
    assert (~is_same).sum() <= is_same.sum()
    again = evaluation_pairs(identity, limit)
    assert (first.tolist(), second.tolist()) == (again[0].tolist(), again[1].tolist())


@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=8), limit=st.sampled_from([20, 100, 10_000]))
def test_drawn_pairs_are_all_pairs_or_some_of_each_kind(sizes: list[int], limit: int) -> None:
    identity = np.repeat(np.arange(len(sizes)), sizes)
    first, second = drawn_pairs(identity, limit)
    every = len(identity) * (len(identity) - 1) // 2
    assert (first < second).all()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(first) <= min(limit, every)
    every_same = sum(n * (n - 1) // 2 for n in sizes)
    is_same = identity[first] == identity[second]
    assert is_same.sum() == (every_same if every <= limit else min(every_same, limit // 2))
    assert every > limit or len(first) == every


MEASURES: list[Callable[..., Any]] = [
    lambda *given: report(*given, threshold=1.0),
    lambda *given: all_pairs(*given).auc,
    retrieval,
    lambda *given: [found.tolist() for found in nearest_others(*given)],
]


@pytest.mark.parametrize("measure", MEASURES)
def test_arrays_lists_and_names_are_measured_as_tensors_are(measure: Callable[..., Any]) -> None:
    values = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    identity = [0, 1, 0, 1, 2, 2, 1, 0]
    expected = measure(torch.from_numpy(values), torch.tensor(identity))
    assert measure(values, np.array(identity)) == expected
    assert measure(values.tolist(), ["anna", "ben", "anna", "ben", "cem", "cem", "ben", "anna"]) == expected


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_embeddings_that_are_no_numbers_are_refused(measure: Callable[..., Any], odd: float) -> None:
    values = np.ones((6, 2))
    values[[3, 5], 1] = odd
    with pytest.raises(DataError, match=r"^embeddings: 2 of 6 hold NaN or infinite values, the first is number 3, "):
        measure(values, np.arange(6) % 2)


def test_what_are_no_embeddings_and_no_distances_is_said() -> None:
    with pytest.raises(DataError, match=r"^embeddings: expected numbers \[images, dimensions\], got \[6\]"):
        retrieval(np.ones(6), np.zeros(6))
    with pytest.raises(DataError, match=r"^identity: expected one of each of 6 embeddings, got \[5\]"):
        retrieval(np.ones((6, 2)), np.zeros(5))
    with pytest.raises(DataError, match=r"^distances: 1 of 3 are NaN; leave these pairs out"):
        Roc.of_pairs([0.1, float("nan"), 0.3], [True, False, True])
