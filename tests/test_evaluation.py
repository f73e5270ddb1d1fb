"""Verification numbers against scikit-learn and scipy, and the pairs that they are measured on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve
from torchmetrics.classification import BinaryAUROC

from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.verification import accuracy_at, similarity_score, verify


def planted(seed: int, count: int = 400, gap: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    is_same = rng.random(count) < 0.3
    return torch.tensor(rng.gamma(4, 0.3, count) + gap * ~is_same), torch.tensor(is_same)


@pytest.mark.parametrize("gap", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_auc_and_eer_are_scikit_learns(seed: int, gap: float) -> None:
    distance, is_same = planted(seed, gap=gap)
    found = verify(distance, is_same)
    assert found.auc == pytest.approx(roc_auc_score(is_same, -distance), abs=1e-6)
    fpr, tpr, _ = roc_curve(is_same, -distance, drop_intermediate=False)
    assert found.eer == pytest.approx(brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1), abs=2e-3)
    best = max(accuracy_score(is_same, distance <= t) for t in [0, *distance.tolist()])
    assert found.accuracy == pytest.approx(best)
    assert accuracy_at(found.threshold, distance, is_same) == pytest.approx(best)
    false_accept, true_accept = found.rates_at(found.threshold)
    assert true_accept == pytest.approx((distance[is_same] <= found.threshold).double().mean().item())
    assert false_accept == pytest.approx((distance[~is_same] <= found.threshold).double().mean().item())


def test_distances_are_mapped_once_so_that_no_hidden_sigmoid_changes_the_auc() -> None:
    # as raw scores, some updates lie within [0, 1] and some do not; torchmetrics would treat them differently
    near, far = torch.tensor([0.1, 0.2, 0.9, 0.3]), torch.tensor([3.0, 7.0, 2.5, 90.0])
    hidden = BinaryAUROC()
    hidden.update(1 - near, torch.ones(4).long())
    hidden.update(1 - far, torch.zeros(4).long())
    hidden.update(1 - torch.tensor([0.95]), torch.ones(1).long())
    hidden.update(1 - torch.tensor([1.05]), torch.zeros(1).long())
    assert hidden.compute() < 1  # what a metric fed with raw scores would say of a perfect separation
    distance, is_same = torch.cat([near, far, torch.tensor([0.95, 1.05])]), torch.tensor([1] * 4 + [0] * 4 + [1, 0])
    assert verify(distance, is_same).auc == 1.0
    score = similarity_score(torch.tensor([0.0, 1e-9, 1.0, 1e6]))
    assert (score > 0).all()
    assert (score <= 1).all()
    assert (score.diff() < 0).all()


def test_a_collapsed_model_scores_chance() -> None:
    found = verify(torch.zeros(50), torch.arange(50) % 2 == 0)
    assert (found.auc, found.eer, found.accuracy) == (0.5, 0.5, 0.5)


def test_perfect_separation_puts_the_threshold_between() -> None:
    found = verify(torch.tensor([0.1, 0.2, 0.8, 0.9]), torch.tensor([True, True, False, False]))
    assert (found.auc, found.eer, found.accuracy) == (1.0, 0.0, 1.0)
    assert found.threshold == pytest.approx(0.5)


@given(st.permutations(list(range(60))))
def test_any_order_of_pairs_gives_the_same_numbers(order: list[int]) -> None:
    distance, is_same = planted(1, count=60)
    one, other = verify(distance, is_same), verify(distance[order], is_same[order])
    assert (one.auc, one.eer, one.threshold) == pytest.approx((other.auc, other.eer, other.threshold))


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
