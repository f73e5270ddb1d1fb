"""Metrics of the user's own: val/NAME and test/NAME are what torchmetrics and scikit-learn say of the numbers."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    log_loss,
    matthews_corrcoef,
    roc_auc_score,
)
from torchmetrics.classification import BinaryAccuracy, MulticlassAUROC, MulticlassF1Score

from outside import Pairs
from ranks import together
from stagetune.config.schema import Config
from stagetune.errors import ConfigError
from stagetune.run.experiment import run_experiment
from stagetune.tasks.classification import ClassificationTask, Scored
from stagetune.tasks.metrics import OwnMetrics, own_metrics
from stagetune.tasks.siamese import Encoded, SiameseTask, sameness

CLASSIFIER, SIAMESE = "+experiment=classifier_staged", "+experiment=siamese_staged"
EXAMPLE = torch.eye(3)[[0, 0, 1, 1, 2, 2]].softmax(-1), torch.tensor([0, 0, 1, 1, 2, 2])


def metrics_of(**settings: Any) -> OwnMetrics:
    found = own_metrics(settings, num_classes=3, task="multiclass")
    return OwnMetrics(found, ours=("loss", "accuracy"), example=EXAMPLE, given="probabilities [n, 3] and classes [n]")


def test_values_are_those_of_torchmetrics_over_all_batches_and_begin_anew() -> None:
    generator = torch.Generator().manual_seed(0)
    preds = torch.rand(90, 3, generator=generator).softmax(-1)
    target = torch.randint(3, (90,), generator=generator)
    metrics = metrics_of(
        auroc={"_target_": "torchmetrics.AUROC"},
        f1={"_target_": "torchmetrics.F1Score", "average": "macro"},
        bits={"_target_": "outside.Surprise"},
    )
    for rows in (slice(0, 50), slice(50, 90)):  # twice, of which the second epoch alone counts
        for first in range(rows.start, rows.stop, 8):
            batch = slice(first, min(first + 8, rows.stop))
            metrics.update("val", preds[batch], target[batch])
        found = metrics.compute("val")
        by_hand = {
            "val/auroc": MulticlassAUROC(3)(preds[rows], target[rows]),
            "val/f1": MulticlassF1Score(3)(preds[rows], target[rows]),
            "val/bits": log_loss(target[rows], preds[rows].double()) / np.log(2),
        }
        assert {name: float(value) for name, value in found.items()} == pytest.approx(
            {name: float(value) for name, value in by_hand.items()}, rel=1e-6
        )


@pytest.mark.parametrize(
    ("target", "arguments", "problem"),
    [
        (
            "torchmetrics.ConfusionMatrix",
            {},
            "metrics.a: gives a tensor [3, 3], which is no single number to log as ",
        ),
        ("torchmetrics.F1Score", {"average": "none"}, "metrics.a: gives a tensor [3], which is no single number to "),
        (
            "torchmetrics.ROC",
            {},
            "metrics.a: gives a tuple, which is no single number to log as val/a; choose one that ",
        ),
        ("torchmetrics.BLEUScore", {}, "metrics.a: cannot take probabilities [n, 3] and classes [n]: "),
        (
            "outside.Diary",
            {},
            "metrics.a._target_=outside.Diary: gives Diary, which is no torchmetrics.Metric; derive ",
        ),
        ("torchmetrics.F1Score", {"avg": 1}, "torchmetrics.F1Score: ValueError: Unexpected keyword arguments: `avg`"),
    ],
    ids=["matrix", "per class", "curve", "text", "callback", "unknown"],
)
def test_what_cannot_be_logged_is_refused_before_training(
    target: str, arguments: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        metrics_of(a={"_target_": target, **arguments})
    (said,) = caught.value.problems
    assert said.startswith(problem)
    assert "\n" not in said


def test_a_name_of_ours_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"metrics\.accuracy: val/accuracy is measured already; give it another name"
    ):
        metrics_of(accuracy={"_target_": "torchmetrics.AUROC"})


def test_nothing_of_them_is_trained_or_in_a_checkpoint() -> None:
    class Learned(Pairs):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

    nothing: Any = torch.nn.Identity()
    task = ClassificationTask(
        nothing, nothing, nothing, classes=3, metrics={"learned": Learned()}, make_optimizer=nothing
    )
    assert not list(task.parameters())
    assert not [name for name in task.state_dict() if "own_metrics" in name]


def _count(world_size: int) -> dict[str, float]:
    if world_size > 1:
        torch.distributed.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=2)
    metrics = metrics_of(
        count={"_target_": "outside.Pairs"},
        doubled={"_target_": "outside.Doubled", "metric": {"_target_": "outside.Pairs"}},
    )
    metrics.update("val", *EXAMPLE)
    return {name: float(value) for name, value in metrics.compute("val").items()}


@pytest.mark.slow
def test_two_processes_that_have_gathered_all_images_count_each_once(tmp_path: Path) -> None:
    assert together(_count, 2, folder=tmp_path) == [_count(1)] * 2
    assert _count(1) == {"val/count": 6, "val/doubled": 12}


def test_the_threshold_itself_is_the_same_whatever_a_metric_does_with_a_half() -> None:
    threshold = 0.7
    near = [np.nextafter(threshold, -1), threshold, np.nextafter(threshold, 1)]
    distance = torch.tensor([0.1, *near, 1.5, 60.0], dtype=torch.float64)
    sure = sameness(distance, threshold)
    for preds in (sure, sure.float()):
        assert (preds >= 0.5).tolist() == (preds > 0.5).tolist() == [True, True, True, False, False, False]
    assert torch.allclose(sure, torch.sigmoid(threshold - distance), atol=1e-7)
    assert (sure.diff() <= 0).all()
    assert float(BinaryAccuracy()(sure, (distance <= threshold).int())) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_classifiers_run_measures_them_in_every_epoch_and_in_the_test(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Scored] = []
    honest = ClassificationTask.on_test_epoch_end

    def watched(self: ClassificationTask) -> None:
        honest(self)
        seen.append(self.scored["test"])

    monkeypatch.setattr(ClassificationTask, "on_test_epoch_end", watched)
    config = tiny(
        CLASSIFIER,
        "+metrics.auroc._target_=torchmetrics.AUROC",
        "+metrics.kappa._target_=torchmetrics.CohenKappa",
        "+metrics.surprise={_target_: outside.Surprise, base: 10.0}",
        stages=2,
    )
    result = run_experiment(config, tmp_path)
    preds, target = seen[0].scores.double().softmax(-1), seen[0].target
    by_hand = {
        "test/auroc": roc_auc_score(target, preds, multi_class="ovr"),
        "test/kappa": cohen_kappa_score(target, preds.argmax(-1)),
        "test/surprise": log_loss(target, preds) / np.log(10),
    }
    assert {name: result.test[name] for name in by_hand} == pytest.approx(by_hand, rel=1e-5, abs=1e-6)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(0 < float(row["val/auroc"]) < 1 and float(row["val/surprise"]) > 0 for row in rows)
    assert "val/kappa" in result.stages[-1]["val"]


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_siamese_run_measures_its_pairs_at_the_threshold_that_is_kept(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Encoded] = []
    honest = SiameseTask.on_test_epoch_end

    def watched(self: SiameseTask) -> None:
        honest(self)
        seen.append(self.encoded["test"])

    monkeypatch.setattr(SiameseTask, "on_test_epoch_end", watched)
    kinds = {"hits": "Accuracy", "ap": "AveragePrecision", "auroc": "AUROC", "mcc": "MatthewsCorrCoef"}
    words = [f"+metrics.{name}._target_=torchmetrics.{kind}" for name, kind in kinds.items()]
    result = run_experiment(tiny(SIAMESE, *words, stages=1), tmp_path)
    (encoded,) = seen
    distance, is_same = encoded.distance.double().numpy(), encoded.pairs[2].numpy()
    called_same = distance <= result.calibration["threshold"]
    by_hand = {
        "test/hits": accuracy_score(is_same, called_same),
        "test/ap": average_precision_score(is_same, -distance),
        "test/auroc": roc_auc_score(is_same, -distance),
        "test/mcc": matthews_corrcoef(is_same, called_same),
    }
    assert {name: result.test[name] for name in by_hand} == pytest.approx(by_hand, rel=1e-5)
    assert result.test["test/auroc"] == pytest.approx(result.test["test/auc"], rel=1e-6)


def test_what_a_siamese_run_cannot_tell_a_metric_it_lacks(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(SIAMESE, "+metrics.bits._target_=outside.Surprise", "+metrics.a._target_=outside.Nothing")
    with pytest.raises(ConfigError) as caught:
        run_experiment(config, tmp_path)
    first, second = caught.value.problems
    assert first == "metrics.bits: lacks num_classes: Surprise(num_classes, base=2.0)"
    assert second.startswith("metrics.a._target_=outside.Nothing: cannot be imported; valid: outside.")
