"""What the answers of a run are worth: every number against scikit-learn, scipy and torchmetrics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
from torchmetrics.functional.classification import multiclass_calibration_error

from stagetune.evaluation.classification import Answers, balanced_accuracy, classification, confusion, worst
from stagetune.evaluation.confidence import fit_confidence, reliability
from stagetune.evaluation.intervals import share
from stagetune.evaluation.retrieval import nearest_others, retrieval
from stagetune.report import answers as told
from stagetune.report.answer_figures import draw_mistakes
from stagetune.report.collect import Run
from stagetune.report.result import RunResult

NAMES = ["cat", "dog", "emu", "never"]


def drawn(seed: int, count: int = 200, wrong: float = 0.3) -> Answers:
    """Uneven answers; nobody is of the last class, and it is answered now and then."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, count, p=[0.8, 0.15, 0.05])
    answers = np.where(rng.random(count) < wrong, rng.integers(0, 4, count), labels)
    return Answers(labels, answers, rng.random(count))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(5, 200))
def test_classes_are_scikit_learns(seed: int, count: int) -> None:
    one = drawn(seed, count)
    said = classification(one, NAMES, [str(i) for i in range(count)], majority=0)
    precision, recall, f1, images = precision_recall_fscore_support(
        one.labels, one.answers, labels=range(4), zero_division=0
    )
    for found in said["classes"]:
        i = NAMES.index(found["name"])
        assert found["images"] == images[i]
        assert (found["recall"] or 0) == pytest.approx(recall[i])
        assert (found["precision"] or 0) == pytest.approx(precision[i])
        assert found["f1"] == pytest.approx(f1[i])
    assert said["f1"] == pytest.approx(f1_score(one.labels, one.answers, average="macro", zero_division=0))
    with np.errstate(all="ignore"):
        expected = balanced_accuracy_score(one.labels, one.answers)
    assert said["balanced_accuracy"]["value"] == pytest.approx(expected)
    assert balanced_accuracy(one.labels, one.answers) == pytest.approx(expected)
    assert said["accuracy"]["value"] == pytest.approx((one.labels == one.answers).mean())
    assert said["majority"] == {"class": "cat", "accuracy": pytest.approx((one.labels == 0).mean())}
    assert (confusion(one, 4) == confusion_matrix(one.labels, one.answers, labels=range(4))).all()


def test_what_is_confused_most_and_the_worst_mistakes_come_first_by_name() -> None:
    one = Answers(
        np.array([0, 0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 1, 0]), np.array([0.6, 0.9, 1.0, 0.9, 0.8, 0.7])
    )
    said = classification(one, NAMES, list("abcdef"), majority=0)
    assert [(found["label"], found["answer"], found["count"]) for found in said["confused"]] == [
        ("cat", "dog", 2),
        ("dog", "cat", 1),
        ("emu", "cat", 1),
    ]
    assert said["confused"][0]["share"] == pytest.approx(2 / 3)
    assert [found["image"] for found in said["mistakes"]] == ["b", "d", "f", "a"]
    assert said["mistakes"][0] == {"image": "b", "label": "cat", "answer": "dog", "probability": 0.9}
    assert worst(one) == [1, 3, 5, 0]


def test_a_large_data_set_needs_no_table_of_all_pairs_of_classes() -> None:
    """Of 100,000 classes it would take 75 GB."""
    names = [f"product {i}" for i in range(100_000)]
    found = Answers(np.array([0, 5, 5, 99_999]), np.array([0, 7, 7, 7]), np.full(4, 0.5))
    said = classification(found, names, list("abcd"), majority=5)
    assert said["accuracy"]["value"] == 0.25
    assert [(one["label"], one["answer"], one["count"], one["share"]) for one in said["confused"]] == [
        ("product 5", "product 7", 2, 1.0),
        ("product 99999", "product 7", 1, 1.0),
    ]


def test_no_mistake_has_its_name_cut_off(tmp_path: Path) -> None:
    draw_mistakes([(np.zeros((8, 8, 3)), "images/nut/01.png", "nut", "bolt", 0.9)], tmp_path / "mistakes.png")
    pixels = np.asarray(Image.open(tmp_path / "mistakes.png").convert("L"))
    assert (pixels[0] == 255).all()
    assert pixels.min() == 0


@pytest.mark.parametrize(("right", "count"), [(0, 12), (12, 12), (11, 12), (55, 60), (1, 2)])
def test_the_interval_of_a_share_of_images_is_the_exact_binomial_one(right: int, count: int) -> None:
    found = share(np.arange(count) < right)
    exact = binomtest(right, count).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_images_of_a_group_count_as_much_as_they_differ() -> None:
    alone = share(np.arange(60) % 10 > 0)
    whole = share(np.repeat(np.arange(10) > 0, 6), units=np.repeat(np.arange(10), 6))  # a group is right or wrong
    mixed = share(np.arange(60) % 10 > 0, units=np.arange(60) % 6)  # every group has the same share
    of_groups = binomtest(9, 10).proportion_ci(0.95, method="exact")
    assert alone.value == whole.value == mixed.value
    assert whole.high - whole.low > 1.8 * (alone.high - alone.low)
    assert whole.low < of_groups.low < alone.low
    assert whole.low < mixed.low <= alone.low
    agreed = classification(
        Answers(np.repeat([0, 1, 2], 20), np.repeat([0, 1, 0], 20), np.ones(60)),
        NAMES,
        ["image"] * 60,
        majority=0,
        units=np.repeat([0, 1, 2], 20),
        over="identities",
    )["balanced_accuracy"]
    assert agreed["low"] < 0.1  # two of three identities: not forty of sixty images
    assert agreed["high"] > 0.95
    assert (share([1, 1], units=np.zeros(2)).low, share([1, 1], units=np.zeros(2)).high) == (0, 1)
    with pytest.raises(ValueError, match="no image"):
        share([])


def test_intervals_hold_what_they_promise_over_correlated_groups() -> None:
    """Drawn anew 400 times, the true accuracy lies within in about 95 of 100; over images it would in far fewer."""
    rng = np.random.default_rng(0)
    units, held, naive = np.repeat(np.arange(15), 8), 0, 0
    for _ in range(400):
        chance = np.where(rng.random(15) < 0.8, 0.95, 0.2)  # of each group: 0.8 in all
        right = rng.random(120) < chance[units]
        over_groups, over_images = share(right, units=units), share(right)
        held += over_groups.low <= 0.8 <= over_groups.high
        naive += over_images.low <= 0.8 <= over_images.high
    assert held >= 0.93 * 400
    assert naive < 0.8 * 400


def test_temperature_undoes_planted_overconfidence() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(4000, 5)) * 1.5
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
    for planted in (0.4, 1.0, 3.0):
        fitted = fit_confidence(scores * planted, labels, lost=0.05)
        assert fitted.temperature == pytest.approx(planted, rel=0.1)
        probability = fitted.probabilities(scores * planted)
        right = probability.argmax(axis=1) == labels
        after = reliability(probability.max(axis=1), right)
        assert after.ece < 0.03
        preds, target = torch.from_numpy(probability), torch.from_numpy(labels)
        oracle = multiclass_calibration_error(preds, target, 5, n_bins=15)
        assert after.ece == pytest.approx(float(oracle), abs=1e-6)
        lost = (probability.max(axis=1)[right] < fitted.unknown).mean()
        assert 0.04 < lost <= 0.05


def test_a_few_images_that_are_all_right_do_not_make_answers_certain() -> None:
    scores = np.eye(3)[[0, 0, 1, 2]] * 2.0
    fitted = fit_confidence(scores, np.array([0, 0, 1, 2]), lost=0.05)
    assert fitted.temperature > 0.3
    assert fitted.unknown == pytest.approx(fitted.probabilities(scores).max(axis=1).min())
    assert fit_confidence(scores, np.array([1, 1, 2, 0]), lost=0.05).unknown is None


@pytest.mark.parametrize("distance", ["euclidean", "squared", "cosine", "weighted_l1"])
def test_the_nearest_other_image_is_what_recall_at_1_counts(distance: str) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator), dim=1)
    identity = torch.tensor([0] * 15 + [1] * 15 + [2] * 9 + [3])
    place, apart, has_other = nearest_others(embeddings, identity, distance)
    difference = embeddings[:, None] - embeddings[None]
    table = {
        "euclidean": difference.norm(dim=-1),
        "squared": difference.square().sum(-1),
        "cosine": 1 - embeddings @ embeddings.T,
        "weighted_l1": difference.abs().sum(-1),
    }[distance].fill_diagonal_(torch.inf)
    assert torch.equal(place, table.argmin(dim=1))
    assert torch.allclose(apart, table.min(dim=1).values, atol=1e-5)
    assert has_other.tolist() == [True] * 39 + [False]
    hits = (identity[place] == identity)[has_other].double().mean()
    assert float(hits) == pytest.approx(retrieval(embeddings, identity, distance=distance)["recall@1"])


def test_map_at_r_by_hand() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [3.5], [7.0]])
    identity = torch.tensor([0, 0, 1, 0, 1])
    # R-nearest of each query, right (1) or not: 0: 1 0 -> 1/2; 1: 1 0 -> 1/2; 2: 0 -> 0; 3: 0 1 -> 1/4; 4: 0 -> 0
    assert retrieval(line, identity)["map@r"] == pytest.approx((0.5 + 0.5 + 0 + 0.25 + 0) / 5)


def test_the_tests_of_folds_are_put_together(tmp_path: Path) -> None:
    """Of the best run's seed; that of another seed, which answers all wrong, is no fold of it."""
    rows = {0: [("a", "cat", "cat"), ("b", "dog", "cat")], 1: [("c", "cat", "cat"), ("d", "dog", "dog")]}
    runs = []
    for seed, fold in ((0, 0), (0, 1), (1, 0)):
        folder = tmp_path / f"{seed}{fold}"
        folder.mkdir()
        lines = [f"{path},test,,{label},{'dog' if seed else answer},0.9" for path, label, answer in rows[fold]]
        header = "path,split,group,label,answer,probability"
        (folder / "predictions.csv").write_text("\n".join([header, "e,val,,cat,dog,0.9", *lines]))
        found = {"answered_by": "class", "interval_over": "images"}
        result = RunResult("completed", "r", "classifier", seed, "", "", "", 1, 1, 1, classification=found)
        runs.append(Run(folder, result, {"data.folds": 2, "data.fold": fold}, ()))
    together = told.tested(runs[1], runs)
    assert together is not None
    assert together.words == "its 2 folds with seed 0"
    assert told.headline_of(together).startswith("In the test of its 2 folds with seed 0 the accuracy is 0.7500")
    assert together.found["images"] == 4
    assert together.found["accuracy"]["value"] == 0.75
    assert together.found["confused"] == [{"label": "dog", "answer": "cat", "count": 1, "share": 0.5}]
    assert [one["image"] for one in together.found["mistakes"]] == ["b"]
    assert told.tested(runs[2], runs).words == "its best run"  # type: ignore[union-attr]
    for run in runs:
        run.settings["data.folds"] = 3
    assert told.tested(runs[1], runs).words == "2 of its 3 folds with seed 0"  # type: ignore[union-attr]
    runs[1].result.task = "siamese"  # whose test/accuracy is that of pairs
    assert "the accuracy of naming an image after the nearest other one is" in told.headline_of(together)
    (tmp_path / "00" / "predictions.csv").write_text("path,split\nx")
    assert told.tested(runs[1], runs).words == "its best run"  # type: ignore[union-attr]
