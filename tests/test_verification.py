"""Verification over all pairs, intervals, calibration, retrieval and one-shot, against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.spatial.distance import pdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score, roc_curve

from stagetune.evaluation.calibration import calibrate
from stagetune.evaluation.oneshot import drawer_episodes, episodes, scores
from stagetune.evaluation.retrieval import retrieval
from stagetune.evaluation.roc import Roc
from stagetune.evaluation.verification import accuracy_over_folds, all_pairs, bootstrap, report


def planted(seed: int, count: int = 400, gap: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    is_same = rng.random(count) < 0.3
    return rng.gamma(4, 0.3, count) + gap * ~is_same, is_same


def clusters(
    seed: int, identities: int = 20, images: int = 10, spread: float = 0.7
) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    centres = torch.randn(identities, 16, generator=rng)
    identity = torch.arange(identities).repeat_interleave(images)
    found = centres[identity] + spread * torch.randn(identities * images, 16, generator=rng)
    return torch.nn.functional.normalize(found, dim=1), identity


@pytest.mark.parametrize("gap", [0.0, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_auc_eer_accuracy_and_tar_are_scikit_learns(seed: int, gap: float) -> None:
    distance, is_same = planted(seed, gap=gap)
    roc = Roc.of_pairs(distance, is_same)
    assert roc.auc == pytest.approx(roc_auc_score(is_same, -distance), abs=1e-12)
    fpr, tpr, _ = roc_curve(is_same, -distance, drop_intermediate=False)
    assert roc.eer == pytest.approx(brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1), abs=2e-3)
    best = max(balanced_accuracy_score(is_same, distance <= t) for t in [0, *distance.tolist()])
    assert roc.accuracy_at(roc.threshold_of_best_accuracy()) == pytest.approx(best)
    assert roc.tar_at(0.1) == pytest.approx(tpr[fpr <= 0.1].max())
    false_accept, true_accept = roc.rates_at(roc.threshold_at(0.1))
    assert false_accept <= 0.1
    assert true_accept == pytest.approx(roc.tar_at(0.1))
    false_accept, true_accept = roc.rates_at(roc.threshold_of_equal_errors())
    assert abs(false_accept - (1 - true_accept)) < 0.02


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_pairs_of_one_distance_are_accepted_together_in_any_order(pairs: list[tuple[int, bool]]) -> None:
    distance, is_same = (np.array(column) for column in zip(*pairs, strict=True))
    if is_same.all() or not is_same.any():
        return
    one, other = Roc.of_pairs(distance, is_same), Roc.of_pairs(distance[::-1], is_same[::-1])
    assert one.auc == other.auc == pytest.approx(roc_auc_score(is_same, -distance))


def test_all_pairs_in_blocks_are_the_pairs() -> None:
    embeddings, identity = clusters(0, identities=30, images=50)  # more than a block
    roc = all_pairs(embeddings, identity)
    distance = pdist(embeddings.double().numpy())
    first, second = np.triu_indices(len(identity), 1)
    is_same = (identity[first] == identity[second]).numpy()
    assert (roc.same.sum(), roc.different.sum()) == (is_same.sum(), (~is_same).sum())
    assert roc.auc == pytest.approx(roc_auc_score(is_same, -distance), abs=1e-6)
    exact = Roc.of_pairs(distance, is_same)
    assert roc.eer == pytest.approx(exact.eer, abs=1e-5)
    assert roc.tar_at(1e-3) == pytest.approx(exact.tar_at(1e-3), abs=1e-4)
    order = torch.randperm(len(identity), generator=torch.Generator().manual_seed(0))
    assert all_pairs(embeddings[order], identity[order]).auc == pytest.approx(roc.auc, abs=1e-9)


def test_a_collapsed_model_scores_chance_everywhere() -> None:
    identity = torch.arange(20).repeat_interleave(10)
    same_point = torch.ones(200, 8)
    found = report(same_point, identity, threshold=0.5)
    assert found["auc"]["value"] == found["eer"]["value"] == found["accuracy"]["value"] == 0.5
    assert found["tar_at_far_0.01"]["value"] == 0.0
    near = retrieval(same_point, identity)
    assert near["recall@1"] == 0.0
    assert near["map"] < 0.06
    (episode,) = episodes(identity.numpy(), ways=20, shots=1, count=1)
    assert scores(np.zeros((20, 20)), episode.truth).mean() == pytest.approx(1 / 20)


def test_a_rate_finer_than_the_pairs_allow_is_said_to_be_unresolvable() -> None:
    embeddings, identity = clusters(0, identities=5, images=10)  # 1,000 different pairs
    found = report(embeddings, identity, threshold=0.5)
    rate = found["tar_at_far_0.01"]
    assert 0 < rate["low"] < rate["value"] < rate["high"] <= 1
    assert found["tar_at_far_0.001"] == {"unresolvable": "needs 10,000 different pairs, there are 1,000"}


@pytest.mark.slow
def test_intervals_over_identities_hold_the_truth_as_often_as_they_say() -> None:
    """Drawn over pairs, which share identities, they would be several times too narrow."""
    truth = np.mean([all_pairs(*clusters(seed, identities=200)).auc for seed in range(1000, 1010)])
    inside = 0
    for seed in range(60):
        found = report(*clusters(seed, identities=25), threshold=1.0)
        inside += found["auc"]["low"] <= truth <= found["auc"]["high"]
    assert 50 <= inside <= 60
    embeddings, identity = clusters(0, identities=25)
    first, second = np.triu_indices(len(identity), 1)
    apart, names = (embeddings[first] - embeddings[second]).norm(dim=1).numpy(), identity.numpy()
    measures = {"auc": lambda roc: roc.auc}
    low, high = bootstrap(apart, names[first], names[second], measures)["auc"]
    rng = np.random.default_rng(0)
    naive = []
    for _ in range(50):
        drawn = rng.integers(0, len(apart), len(apart))
        naive.append(Roc.of_pairs(apart[drawn], (names[first] == names[second])[drawn]).auc)
    assert high - low > 3 * (np.percentile(naive, 97.5) - np.percentile(naive, 2.5))


def test_a_calibration_is_fitted_on_the_pairs_that_it_is_given_and_says_their_rates() -> None:
    distance, is_same = planted(0, count=4000)
    roc = Roc.of_pairs(distance, is_same)
    found = calibrate(roc, "far", far=0.01)
    assert found.far <= 0.01
    assert found.tar == pytest.approx((distance[is_same] <= found.threshold).mean())
    assert (found.same, found.different) == (is_same.sum(), (~is_same).sum())
    weight = np.where(is_same, 1 / is_same.sum(), 1 / (~is_same).sum()) * len(is_same) / 2
    oracle = LogisticRegression(C=1.0).fit(distance[:, None], is_same, sample_weight=weight)
    for value in (0.5, 1.5, 2.5):
        assert found.probability(value) == pytest.approx(oracle.predict_proba([[value]])[0, 1], abs=0.01)
    with pytest.raises(ValueError, match=r"a FAR of 0.0001 needs 100,000 different pairs, there are "):
        calibrate(roc, "far", far=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_retrieval_is_scikit_learns_average_precision_and_counts_by_hand(seed: int) -> None:
    embeddings, identity = clusters(seed, identities=8, images=6, spread=2.0)
    embeddings, identity = torch.cat([embeddings, embeddings[:1] + 1]), torch.cat([identity, torch.tensor([99])])
    found = retrieval(embeddings, identity)
    distance = torch.cdist(embeddings.double(), embeddings.double()).numpy()
    precision, hits, r_precision = [], [], []
    for i in range(48):
        others = np.delete(np.arange(49), i)
        mine = (identity[others] == identity[i]).numpy()
        precision.append(average_precision_score(mine, -distance[i, others]))
        order = mine[np.argsort(distance[i, others])]
        hits.append(order[:5].any())
        r_precision.append(order[: mine.sum()].mean())
    assert found["map"] == pytest.approx(np.mean(precision), abs=1e-6)
    assert found["recall@5"] == pytest.approx(np.mean(hits))
    assert found["r_precision"] == pytest.approx(np.mean(r_precision))
    assert (found["queries"], found["without_another_image"]) == (48, 1)


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 3))
def test_episodes_are_the_same_every_time_and_never_ask_for_an_image_that_they_show(
    ways: int, shots: int, seed: int
) -> None:
    identity = np.repeat(np.arange(8), 5)
    found = episodes(identity, ways=ways, shots=shots, count=5, queries=2, seed=seed)
    for one, other in zip(
        found, episodes(identity, ways=ways, shots=shots, count=5, queries=2, seed=seed), strict=True
    ):
        assert np.array_equal(one.support, other.support)
        assert np.array_equal(one.query, other.query)
        assert not set(one.support.ravel()) & set(one.query)
        assert (identity[one.query] == identity[one.support[one.truth, 0]]).all()
        assert (identity[one.support] == identity[one.support[:, :1]]).all()
    with pytest.raises(ValueError, match="9-way 1-shot episodes need 9 identities with 2 images, there are 8"):
        episodes(identity, ways=9, shots=1, count=1)


def test_every_ordered_pair_of_drawers_is_an_episode() -> None:
    identity, drawer = np.tile(np.arange(4), 3), np.repeat(np.arange(3), 4)
    found = list(drawer_episodes(identity, drawer))
    assert len(found) == 6
    for episode in found:
        assert len(set(drawer[episode.support[:, 0]])) == len(set(drawer[episode.query])) == 1
        assert drawer[episode.support[0, 0]] != drawer[episode.query[0]]
        assert (identity[episode.query] == identity[episode.support[episode.truth, 0]]).all()


def test_one_shot_judges_each_query_by_itself_and_a_tie_is_a_guess() -> None:
    distance = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 3.0], [0.0, 5.0, 5.0]])
    assert scores(distance, np.array([0, 1, 2])).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.slow
def test_accuracy_over_folds_never_fits_a_threshold_on_the_fold_that_it_measures() -> None:
    distance, is_same = planted(0, count=600)
    fold = np.arange(600) % 10
    accuracies = []
    for held_out in range(10):
        inside = fold == held_out
        candidates = [0.0, *distance[~inside]]
        best = max(candidates, key=lambda t: balanced_accuracy_score(is_same[~inside], distance[~inside] <= t))
        above = distance[~inside][distance[~inside] > best].min()
        accuracies.append(((distance[inside] <= (best + above) / 2) == is_same[inside]).mean())
    found = accuracy_over_folds(distance, is_same, fold)
    assert found["accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-9)
    assert found["standard_error"] == pytest.approx(np.std(accuracies, ddof=1) / 10**0.5, abs=1e-9)
    planted_apart = np.where(fold == 3, distance + 100, distance)  # of which only other folds can know nothing
    assert accuracy_over_folds(planted_apart, is_same, fold)["accuracy"] < found["accuracy"]
