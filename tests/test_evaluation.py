"""The pairs that a verification is measured on."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stagetune.evaluation.pairs import drawn_pairs, evaluation_pairs


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
