"""Losses equal their formulas, move pairs the right way, and stay finite."""

import itertools
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_metric_learning import distances, losses, miners
from scipy.spatial.distance import cdist
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.optim import SGD

from stagetune.config.compose import compose
from stagetune.config.parts import PACKAGES, names, part
from stagetune.data.datamodule import Batch
from stagetune.errors import ConfigError, TrainingError
from stagetune.losses.shared.pairs import batch_pairs
from stagetune.losses.triplet import MINERS
from stagetune.models.distances import measure
from stagetune.run.data import build_data
from stagetune.run.words import training_words
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.siamese import SiameseTask


def built(name: str, **settings: Any) -> nn.Module:
    """A loss as a run has it, of 100 identities and 6 dimensions."""
    kind: Any = part("loss", name)
    loss: nn.Module = kind(**settings).build(100, 6)
    return loss


LOSSES = {
    **{name: built(name) for name in names(PACKAGES["loss"]) if part("loss", name).task == "siamese"},
    **{f"contrastive {kind}": built("contrastive", distance=kind) for kind in ("cosine", "squared", "weighted_l1")},
    **{mining: built("triplet", mining=mining) for mining in MINERS},
    "soft margin": built("triplet", soft_margin=True),
}
each_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
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
    torch.testing.assert_close(built("contrastive")(e, IDENTITY), expected)


def test_batch_hard_takes_the_farthest_same_and_the_nearest_different() -> None:
    e = embeddings()
    costs = []
    for a in range(len(e)):
        same = [distance(e[a], e[p]) for p in range(len(e)) if IDENTITY[p] == IDENTITY[a] and p != a]
        different = [distance(e[a], e[n]) for n in range(len(e)) if IDENTITY[n] != IDENTITY[a]]
        if same:
            costs.append(F.relu(max(same) - min(different) + 0.3))
    torch.testing.assert_close(built("triplet", mining="batch_hard")(e, IDENTITY), torch.stack(costs).mean())


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
    torch.testing.assert_close(built("triplet", mining="semi_hard")(e, IDENTITY), torch.stack(costs).mean())


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_moves_same_together_and_different_apart(name: str) -> None:
    """Of losses with a learnt point for each identity, which begin anywhere, fifty steps."""
    loss, raw = deepcopy(LOSSES[name]), embeddings().float().requires_grad_()
    before, is_same = batch_pairs(raw.detach(), IDENTITY)
    learnt = [parameter for parameter in loss.parameters() if parameter.ndim]
    optimizer = SGD([raw, *learnt], lr=0.05)
    for _ in range(50 if learnt else 1):
        optimizer.zero_grad()
        loss(raw, IDENTITY).backward()
        optimizer.step()
    after, _ = batch_pairs(raw.detach(), IDENTITY)
    gap = lambda d: d[~is_same].mean() - d[is_same].mean()  # noqa: E731
    assert gap(after) > gap(before)


@each_loss
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


@pytest.mark.parametrize("loss", [LOSSES[name] for name in ("contrastive", "bce", *MINERS)], ids=str)
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


def hard_triplets(margin: float) -> nn.Module:
    """The loss of pytorch-metric-learning with its own miner, as an oracle."""
    return losses.TripletMarginLoss(margin=margin, distance=distances.LpDistance(normalize_embeddings=False))


def test_triplets_are_those_of_pytorch_metric_learning() -> None:
    e = embeddings().float()
    everywhere = hard_triplets(0.3)(e, IDENTITY)  # a mean over the triplets that cost anything
    torch.testing.assert_close(built("triplet", mining="batch_all")(e, IDENTITY), everywhere)
    oracle = miners.BatchHardMiner(distance=distances.LpDistance(normalize_embeddings=False))
    anchors, positives, negatives = oracle(e, IDENTITY)
    expected = F.relu((e[anchors] - e[positives]).norm(dim=1) - (e[anchors] - e[negatives]).norm(dim=1) + 0.3).mean()
    torch.testing.assert_close(built("triplet", mining="batch_hard")(e, IDENTITY), expected)
    easy = miners.BatchEasyHardMiner("easy", "hard", distance=distances.LpDistance(normalize_embeddings=False))
    anchors, positives, others, negatives = easy(e, IDENTITY)
    near = {a: (e[a] - e[p]).norm() for a, p in zip(anchors.tolist(), positives.tolist(), strict=True)}
    far = {a: (e[a] - e[n]).norm() for a, n in zip(others.tolist(), negatives.tolist(), strict=True)}
    expected = torch.stack([F.relu(near[a] - far[a] + 0.3) for a in near]).mean()
    torch.testing.assert_close(built("triplet", mining="easy_positive")(e, IDENTITY), expected)


def test_a_soft_margin_never_stops_pulling_hermans_et_al_equation_6() -> None:
    e = embeddings()
    gaps = []
    for a in range(7):
        same = [distance(e[a], e[p]) for p in range(len(e)) if IDENTITY[p] == IDENTITY[a] and p != a]
        different = [distance(e[a], e[n]) for n in range(len(e)) if IDENTITY[n] != IDENTITY[a]]
        gaps.append(F.softplus(max(same) - min(different)))
    torch.testing.assert_close(built("triplet", soft_margin=True)(e, IDENTITY), torch.stack(gaps).mean())


def test_the_share_of_triplets_that_cost_anything_is_kept_and_is_nan_where_there_are_none() -> None:
    loss = built("triplet", mining="batch_all")
    loss(embeddings(), IDENTITY)
    figures: Any = loss.figures
    assert 0 < figures["active_triplets"] < 1
    loss(embeddings(), torch.arange(8))
    figures = loss.figures
    assert figures["active_triplets"].isnan()


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [("euclidean", "euclidean"), ("squared", "sqeuclidean"), ("cosine", "cosine"), ("weighted_l1", "cityblock")],
)
def test_distances_are_scipys(kind: str, oracle: str) -> None:
    a, b = embeddings(0), embeddings(1)
    expected = torch.tensor(np.diag(cdist(a, b, oracle)))
    torch.testing.assert_close(measure(a - b, kind), expected, rtol=0, atol=1e-6)


LIBRARY = {  # of pytorch-metric-learning: its class, and what ours are by default
    "supcon": ("SupConLoss", {"temperature": 0.1}),
    "nt_xent": ("NTXentLoss", {"temperature": 0.1}),
    "multi_similarity": ("MultiSimilarityLoss", {}),
    "arcface": ("ArcFaceLoss", {"num_classes": 100, "embedding_size": 6, "margin": 28.6, "scale": 64.0}),
    "proxy_anchor": ("ProxyAnchorLoss", {"num_classes": 100, "embedding_size": 6, "margin": 0.1, "alpha": 32.0}),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_losses_of_the_library_have_its_numbers(name: str) -> None:
    kind, arguments = LIBRARY[name]
    theirs, ours, points = getattr(losses, kind)(**arguments), built(name), embeddings().float()
    theirs.load_state_dict({key.removeprefix("loss."): value for key, value in ours.state_dict().items()})
    torch.testing.assert_close(ours(points, IDENTITY), theirs(points, IDENTITY))


def test_bce_is_torchs_of_the_scaled_distance_with_same_and_different_weighing_alike() -> None:
    points = embeddings()
    distances_, is_same = batch_pairs(points, IDENTITY)
    cost = F.binary_cross_entropy((5 - 5 * distances_).sigmoid(), is_same.double(), reduction="none")
    expected = 0.5 * (cost[is_same].mean() + cost[~is_same].mean())
    torch.testing.assert_close(built("bce")(points, IDENTITY), expected, check_dtype=False)


def test_cross_entropy_is_torchs_with_its_smoothing() -> None:
    scores, target = embeddings(), torch.tensor([0, 1, 2, 3, 4, 5, 0, 1])
    ours = built("cross_entropy", label_smoothing=0.2)(scores, target)
    torch.testing.assert_close(ours, F.cross_entropy(scores, target, label_smoothing=0.2))
    assert ours != F.cross_entropy(scores, target)


WEIGHTS = [0.5, 1.0, 4.0, 2.0, 0.25, 1.5]
SCORES, CLASSES = 3 * torch.randn(9, 6, dtype=torch.float64, generator=torch.manual_seed(3)), torch.arange(9) % 6
SHARES = torch.rand(9, 6, dtype=torch.float64, generator=torch.manual_seed(4)).softmax(1)
each_kind_of_target = pytest.mark.parametrize("target", [CLASSES, SHARES], ids=["classes", "shares"])


@each_kind_of_target
def test_focal_is_equation_5_of_lin_et_al(target: Tensor) -> None:
    costs, counted = [], 0.0
    for scores, one in zip(SCORES.numpy(), target, strict=True):
        p = np.exp(scores) / np.exp(scores).sum()
        shares = np.eye(6)[one] if one.ndim == 0 else one.numpy()
        costs.append(sum(-shares[c] * WEIGHTS[c] * (1 - p[c]) ** 1.5 * np.log(p[c]) for c in range(6)))
        counted += WEIGHTS[one] if one.ndim == 0 else 1.0
    ours = built("focal", gamma=1.5, class_weights=WEIGHTS)(SCORES, target)
    assert float(ours) == pytest.approx(sum(costs) / counted)


@each_kind_of_target
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("name", ["focal", "cross_entropy"])
def test_focal_without_gamma_and_cross_entropy_are_torchs(name: str, weights: Any, target: Tensor) -> None:
    settings = {"label_smoothing": 0.2, "class_weights": weights, **({"gamma": 0.0} if name == "focal" else {})}
    given = None if weights is None else torch.tensor(weights)
    scores = SCORES.float()
    expected = nn.CrossEntropyLoss(given, label_smoothing=0.2)(scores, target if target.ndim == 1 else target.float())
    ours = built(name, **settings)(scores, target if target.ndim == 1 else target.float())
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_finite_for_scores_that_are_as_sure_as_can_be(gamma: float) -> None:
    scores = torch.tensor([[1e4, 0.0], [1e4, 0.0], [0.0, 0.0]], requires_grad=True)
    cost = built("focal", gamma=gamma)(scores, torch.tensor([0, 1, 0]))
    cost.backward()
    assert torch.isfinite(cost)
    assert torch.isfinite(scores.grad).all()


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels, classes = np.repeat([0, 1, 2], [5, 1, 14]), ["a", "b", "c"]
    kind: Any = part("loss", "focal")
    weighed = kind(class_weights="balanced").for_classes(classes, np.bincount(labels).tolist())
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert weighed.class_weights == pytest.approx(expected)
    assert kind(class_weights="balanced").weights() is None  # without data
    with pytest.raises(ConfigError, match="class_weights=balanced: class b has no training images; give it"):
        kind(class_weights="balanced").for_classes(classes, [5, 0, 14])
    with pytest.raises(ConfigError, match="has 2 numbers for 3 classes; give one for each, in this order: a, b, c"):
        kind(class_weights=[1, 2]).for_classes(classes, [5, 1, 14])


class FewAtOnce(nn.Module):
    def forward(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if len(scores) > 4:
            raise ValueError("more than 4")
        return scores.mean()


@pytest.mark.parametrize("sampler", ["shuffled", "balanced"])
def test_weights_beside_balanced_batches_are_said(sampler: str) -> None:
    config = compose(["loss.class_weights=balanced", f"data.sampler={sampler}", "data.image_size=16"])
    said = training_words(config, build_data(config), precision="fp32", device="cpu")
    assert ("; batches are balanced already, so that rare classes count twice" in said) == (sampler == "balanced")


@pytest.mark.parametrize("weights", [None, [3.0, 1.0, 0.2]], ids=["alike", "weighted"])
def test_the_loss_of_a_part_is_that_of_all_its_images_at_once(weights: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kind: Any = part("loss", "cross_entropy")
    task = ClassificationTask(
        nn.Identity(), nn.Identity(), kind(class_weights=weights).build(3, 3), classes=3, make_optimizer=SGD
    )
    task.forward = lambda inputs, depth: inputs  # type: ignore[method-assign]
    logged: dict[str, Any] = {}
    monkeypatch.setattr(task, "log_dict", logged.update)
    scores, target = torch.randn(10, 3, generator=torch.manual_seed(0)), torch.tensor([0, 0, 0, 0, 1, 2, 1, 2, 2, 2])
    for some in (slice(0, 4), slice(4, 7), slice(7, 10)):
        task.validation_step(Batch(target[some], scores[some], 0, target[some]), 0)
    task.on_validation_epoch_end()
    torch.testing.assert_close(logged["val/loss"], task.loss(scores, target))


@pytest.mark.parametrize(
    ("score", "loss", "message"),
    [
        (float("nan"), nn.CrossEntropyLoss(), "the scores of 1 of 8 images of val are no finite numbers; lower the"),
        (float("inf"), nn.CrossEntropyLoss(), "the scores of 1 of 8 images of val are no finite numbers; lower the"),
        (0.0, FewAtOnce(), "the loss cannot take all 8 images of val at once, without gradients: ValueError: more"),
    ],
    ids=["nan", "infinite", "loss"],
)
def test_a_part_that_cannot_be_measured_is_said(score: float, loss: nn.Module, message: str) -> None:
    """Scores that are no numbers would be answers with the first class, and an accuracy of that."""
    task = ClassificationTask(nn.Identity(), nn.Identity(), loss, classes=2, make_optimizer=SGD)
    task.forward = lambda inputs, depth: inputs  # type: ignore[method-assign]
    given, target = torch.zeros(8, 2), torch.zeros(8, dtype=torch.long)
    given[5, 1] = score
    for some in (slice(0, 4), slice(4, 8)):
        task.validation_step(Batch(target[some], given[some], 0, target[some]), 0)
    with pytest.raises(TrainingError, match=message):
        task.on_validation_epoch_end()


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_embeddings_of_a_part_that_are_no_numbers_are_said(odd: float) -> None:
    kind: Any = part("loss", "contrastive")
    task = SiameseTask(nn.Identity(), nn.Identity(), kind().build(2, 2), make_optimizer=SGD)
    task.forward = lambda inputs, depth: inputs  # type: ignore[method-assign]
    given, target = torch.ones(8, 2), torch.arange(8) % 2
    given[5, 1] = odd
    task.validation_step(Batch(target, given, 0, target), 0)
    with pytest.raises(
        TrainingError, match="the embeddings of 1 of 8 images of val are no finite numbers; lower the"
    ):
        task.on_validation_epoch_end()
