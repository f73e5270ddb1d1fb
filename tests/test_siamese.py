"""What a siamese run leaves: reports with intervals, a calibration that never sees the test, guards, pictures."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from conftest import Watched
from stagetune.config.schema import Config
from stagetune.errors import DataError, TrainingError
from stagetune.inference.checkpoint import load_task
from stagetune.models.heads import EmbeddingHead
from stagetune.report.result import read_result
from stagetune.run import run_experiment
from stagetune.run.data import build_data
from stagetune.tasks.siamese import SiameseTask

SIAMESE = "+experiment=siamese_staged"


@pytest.mark.slow
def test_every_stage_and_the_test_have_a_report_with_intervals(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run_experiment(tiny(SIAMESE, "loss=triplet", stages=2), tmp_path / "run")
    result = read_result(tmp_path / "run")
    for found in (*(stage["verification"] for stage in result.stages), result.verification):
        for name in ("auc", "eer", "accuracy", "tar_at_far_0.1", "tar_at_far_0.001"):
            assert 0 <= found[name]["low"] <= found[name]["value"] <= found[name]["high"] <= 1, name
        assert "unresolvable" in found["tar_at_far_0.0001"]
        assert found["pairs"]["same"] + found["pairs"]["different"] == 359 * 358 // 2
        assert found["retrieval"]["queries"] == 359
    assert result.verification["threshold"] == result.calibration["threshold"]
    for name in ("curves", "learning_rates", "roc", "det", "distances", "embeddings", "hardest", "stages"):
        assert (tmp_path / "run" / "figures" / f"{name}.png").stat().st_size > 5000, name
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items() if k != "stage"} for row in csv.DictReader(file)]
    for row in rows:
        assert row["train/batches_without_active_triplets"] == 0
        assert 0 <= row["train/active_triplets"] <= 1
        assert row["val/same_distance"] < row["val/different_distance"]
        assert 0 < row["val/spread"] <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_the_calibration_is_of_validation_alone_and_is_used_unchanged(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the test's labels permuted the threshold stays what it was, to the last bit."""
    config = tiny(SIAMESE, "task.calibrate=far", "task.far=0.05", stages=1)
    first = run_experiment(config, tmp_path / "first")
    honest = SiameseTask.test_step

    def wrong(self: SiameseTask, batch: object, batch_idx: int, dataloader_idx: int = 0) -> None:
        batch.target = batch.target.roll(1)  # type: ignore[attr-defined]
        honest(self, batch, batch_idx, dataloader_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(SiameseTask, "test_step", wrong)
    second = run_experiment(config, tmp_path / "second")
    assert first.calibration == second.calibration
    assert first.test != second.test
    assert first.calibration["kind"] == "far"
    assert first.calibration["far"] <= 0.05
    task, _, metadata = load_task(tmp_path / "first" / "checkpoints" / "best.ckpt")
    assert isinstance(task, SiameseTask)
    assert task.threshold.item() == first.calibration["threshold"] == metadata.calibration["threshold"]


def test_a_rate_that_validation_cannot_know_is_refused_before_anything_is_trained(
    tiny: Callable[..., Config],
) -> None:
    config = tiny(SIAMESE, "task.calibrate=far", "task.far=0.001")
    with pytest.raises(DataError) as caught:
        build_data(config)
    assert str(caught.value) == (
        "task.calibrate=far: a false accept rate of 0.001 needs 10,000 different pairs in validation, 6,266 are "
        "measured; choose a larger task.far, or give more images"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_collapse_is_named_and_stops_the_run(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = EmbeddingHead.forward
    monkeypatch.setattr(EmbeddingHead, "forward", lambda self, x: 0 * honest(self, x) + torch.ones(128) / 128**0.5)
    with pytest.raises(TrainingError, match=r"have collapsed into one point in stage head, epoch 0: val/spread is "):
        run_experiment(tiny(SIAMESE), tmp_path / "run")
    result = run_experiment(tiny(SIAMESE, "task.on_collapse=go_on", stages=1), tmp_path / "other")
    assert result.test["test/auc"] == 0.5


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_collapsed_stage_ends_and_goes_back_to_its_best_weights(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = EmbeddingHead.forward

    def lost_where_weights_are_large(self: EmbeddingHead, features: torch.Tensor) -> torch.Tensor:
        embeddings = honest(self, features)
        is_lost = self.layers[-1].weight.abs().max() > 10
        return 0 * embeddings.nan_to_num() + 128**-0.5 if is_lost else embeddings

    monkeypatch.setattr(EmbeddingHead, "forward", lost_where_weights_are_large)
    rates = ("schedule.stages.1.lr=1000", "schedule.stages.1.epochs=3")
    still = ("schedule.stages.2.lr=1e-12", "+schedule.stages.2.batch_norm=frozen")  # shows what it began with
    result = run_experiment(tiny(SIAMESE, "task.on_collapse=go_back", *rates, *still), tmp_path / "run")
    head, layer4, rest = result.stages
    assert result.status == "completed"
    assert layer4["collapsed_in_epoch"] == 1
    assert (layer4["epochs"], rest["start_epoch"]) == (1, 2)
    assert layer4["val"]["val/auc"] == 0.5
    assert "collapsed_in_epoch" not in rest
    assert rest["val"] == pytest.approx(head["val"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("distance", ["squared", "cosine", "weighted_l1"])
def test_the_distance_of_the_loss_is_that_of_the_evaluation(
    distance: str, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    run_experiment(tiny(SIAMESE, "loss=bce", f"loss.distance={distance}", stages=1), tmp_path / "run")
    result = read_result(tmp_path / "run")
    # the one counts distances in bins
    assert result.verification["auc"]["value"] == pytest.approx(result.test["test/auc"], abs=0.005)
    task, _, _ = load_task(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert isinstance(task, SiameseTask)
    assert task.distance == distance


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures", "_no_probe")
@pytest.mark.parametrize("loss", ["supcon", "nt_xent", "multi_similarity", "arcface", "proxy_anchor"])
def test_the_losses_of_pytorch_metric_learning_train(
    loss: str, tiny: Callable[..., Config], watched: Watched, tmp_path: Path
) -> None:
    """The head, and the classes' vectors where the loss has them, under a backbone that stays as it was."""
    words = (f"loss={loss}", "task.images_per_identity=4", "data.augment=none", "data.image_size=16")
    config = tiny(SIAMESE, *words, stages=1)
    config.trainer["limit_train_batches"] = 1.0
    config.schedule.stages[0].epochs = 3
    run_experiment(config, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    losses = [float(row["train/loss"]) for row in rows]
    assert losses[0] > losses[1] > losses[2]
    has_classes = loss in ("arcface", "proxy_anchor")
    assert watched.changed(tmp_path / "run") == {"head", "threshold", *(["loss"] if has_classes else [])}


def test_what_is_trained_on_is_centred_then_spliced_then_turned(tiny: Callable[..., Config]) -> None:
    plain = build_data(tiny(SIAMESE))
    data = build_data(tiny(SIAMESE, "data.centred=true", "data.spliced=1", "data.turned=true"))
    assert data.source.contents[-1].count(" centred") == 2
    assert data.source.classes[-1].endswith(" turned 270°")
    assert len(data.split.train) == 2 * 4 * len(plain.split.train)
    assert [len(indices) for indices in (data.split.val, data.split.test)] == [
        len(indices) for indices in (plain.split.val, plain.split.test)
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures", "_no_probe")
def test_features_of_several_blocks_are_the_embedding_also_from_a_cache(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny(
        SIAMESE,
        "task.embedding=null",
        "model.pooled=[layer3,layer4]",
        "data.turned=true",
        "data.augment=none",
        "data.image_size=16",
        stages=2,
    )
    result = run_experiment(config, tmp_path / "run")
    assert any("4 times the classes" in note for note in result.data["notes"])
    head, layer4 = result.stages
    assert head["cached_depth"] == 5
    assert layer4["cached_depth"] == 3  # layer3 is frozen, too, but its output is a feature itself
    task, _, _ = load_task(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert task(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 256 + 512)
