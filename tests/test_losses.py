"""Losses equal their formulas, move pairs the right way, and stay finite."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stagetune.losses.pairs import BCELoss, ContrastiveLoss, batch_pairs
from stagetune.losses.triplet import TripletLoss

LOSSES = [ContrastiveLoss(1.0), BCELoss(), TripletLoss(0.3, "batch_hard"), TripletLoss(0.3, "semi_hard")]
NAMES = ["contrastive", "bce", "batch_hard", "semi_hard"]
IDENTITY = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])


def embeddings(seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return F.normalize(torch.randn(len(IDENTITY), 6, dtype=torch.float64), dim=1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).norm()


def test_contrastive_is_the_mean_over_its_same_and_over_its_different_pairs() -> None:
    e = embeddings()
    pull, push = [], []
    for i, j in itertools.combinations(range(len(e)), 2):
        d = distance(e[i], e[j])
        (pull if IDENTITY[i] == IDENTITY[j] else push).append(
            d**2 if IDENTITY[i] == IDENTITY[j] else F.relu(1 - d) ** 2
        )
    expected = 0.5 * (torch.stack(pull).mean() + torch.stack(push).mean())
    torch.testing.assert_close(ContrastiveLoss(1.0)(e, IDENTITY), expected)


def test_batch_hard_takes_the_farthest_same_and_the_nearest_different() -> None:
    e = embeddings()
    costs = []
    for a in range(len(e)):
        same = [distance(e[a], e[p]) for p in range(len(e)) if IDENTITY[p] == IDENTITY[a] and p != a]
        different = [distance(e[a], e[n]) for n in range(len(e)) if IDENTITY[n] != IDENTITY[a]]
        if same:
            costs.append(F.relu(max(same) - min(different) + 0.3))
    torch.testing.assert_close(TripletLoss(0.3, "batch_hard")(e, IDENTITY), torch.stack(costs).mean())


def test_semi_hard_takes_the_nearest_different_that_is_farther_than_the_same() -> None:
    e = embeddings()
    costs = []
    for a, p in itertools.permutations(range(len(e)), 2):
        if IDENTITY[a] == IDENTITY[p]:
            near = distance(e[a], e[p])
            farther = [distance(e[a], e[n]) for n in range(len(e)) if IDENTITY[n] != IDENTITY[a]]
            farther = [d for d in farther if d > near]
            if farther:
                costs.append(F.relu(near - min(farther) + 0.3))
    torch.testing.assert_close(TripletLoss(0.3, "semi_hard")(e, IDENTITY), torch.stack(costs).mean())


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_one_step_moves_same_together_and_different_apart(loss: nn.Module) -> None:
    raw = embeddings().float().requires_grad_()
    before, is_same = batch_pairs(raw.detach(), IDENTITY)
    loss(raw, IDENTITY).backward()
    after, _ = batch_pairs((raw - 0.05 * raw.grad).detach(), IDENTITY)
    gap = lambda d: d[~is_same].mean() - d[is_same].mean()  # noqa: E731
    assert gap(after) > gap(before)


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
@pytest.mark.parametrize(
    "identity", [IDENTITY, torch.zeros(8, dtype=torch.long), torch.arange(8)], ids=["mixed", "one", "all"]
)
def test_gradients_are_finite_for_identical_images_and_for_batches_without_pairs(
    loss: nn.Module, identity: Tensor
) -> None:
    collapsed = torch.ones(8, 6).requires_grad_()
    cost = loss(F.normalize(collapsed, dim=1), identity)
    cost.backward()
    assert torch.isfinite(cost)
    assert torch.isfinite(collapsed.grad).all()


@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_the_gradient_is_the_same_bit_for_bit_every_time(loss: nn.Module) -> None:
    """The gradient of embeddings[index] is not: threads add into it in any order."""
    torch.manual_seed(0)
    identity = torch.arange(96) // 4
    points = F.normalize(torch.randn(96, 128), dim=1)

    def gradient() -> Tensor:
        leaf = points.clone().requires_grad_()
        loss(leaf, identity).backward()
        assert leaf.grad is not None
        return leaf.grad

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(30))
