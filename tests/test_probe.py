"""What the untouched features are worth, beside what training makes of them."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import paired_cosine_distances
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.optim import SGD
from torchvision.models import resnet18

import networks
from conftest import Watched
from ranks import together
from stagetune.cache.store import Store
from stagetune.config.compose import compose
from stagetune.config.schema import CacheConfig, Config
from stagetune.errors import ConfigError, Interrupted, TrainingError
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.probe import (
    STRENGTHS,
    Features,
    linear_probe,
    nearest_probe,
    regressions,
    verification_probe,
)
from stagetune.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from stagetune.models.backbones import own
from stagetune.models.own import own_backbone
from stagetune.report.result import read_result
from stagetune.run import probe, run_experiment
from stagetune.run.data import build_data
from stagetune.run.probe import Probe, probe_words
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.spec import Schedule, Stage
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.staged_task import StagedTask

CLASSIFIER, SIAMESE = "+experiment=classifier_staged", "+experiment=siamese_staged"
LONG = "schedule.stages.0.epochs=6"  # of four batches: training sees more images than a probe has to compute
pytestmark = pytest.mark.usefixtures("_no_pictures")


@pytest.fixture
def small(tiny: Callable[..., Config]) -> Callable[..., Config]:
    """The same of seconds less: four small layers."""

    def configure(*overrides: str, stages: int = 1) -> Config:
        config = tiny(*overrides, stages=stages)
        network = {"_target_": "networks.Net"}
        blocks, begins = ["stem", "layer2", "layer3", "layer4"], config.model.head_init
        config.model = own.Settings("own", network=network, blocks=blocks, head_init=begins)
        return config

    return configure


def parts(*counts: int) -> list[Features]:
    """Of three overlapping classes, each feature on a scale of its own."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 12))
    found = []
    for count in counts:
        labels = rng.integers(0, 3, count)
        found.append(
            Features((centres[labels] + 2 * rng.normal(size=(count, 12))) * 10.0 ** np.arange(-6, 6), labels)
        )
    return found


def test_the_linear_probe_is_a_grid_search_of_scikit_learns() -> None:
    train, val, test = parts(90, 60, 60)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    fold = PredefinedSplit([-1] * 90 + [0] * 60)  # fitted on the first, measured on the second
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=fold, refit=False)
    search.fit(np.concatenate([train.values, val.values]), np.concatenate([train.labels, val.labels]))
    model.set_params(**search.best_params_).fit(train.values, train.labels)
    found, linear = linear_probe(train, val, test)
    assert found == {
        "val/accuracy": pytest.approx(search.best_score_),
        "test/accuracy": pytest.approx(model.score(test.values, test.labels)),
        "C": search.best_params_["logisticregression__C"],
        "converged": True,
    }
    assert found["val/accuracy"] > 0.5  # chance is a third
    assert linear_probe(train, val, test)[0] == found
    np.testing.assert_allclose(linear.logits(val), model.decision_function(val.values), atol=2e-2)


@pytest.mark.parametrize("present", [[1, 3], [0, 1, 3]])
def test_a_head_has_the_logits_of_the_regression_and_never_says_what_it_has_not_seen(present: list[int]) -> None:
    (features,) = parts(90)
    labels = np.array(present)[features.labels % len(present)]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTHS[0])).fit(features.values, labels)
    train = replace(features, labels=labels)
    weight, bias = next(regressions(train)).head(4, train)
    logits = features.values @ weight.T + bias
    expected = model.decision_function(features.values)
    found = logits[:, 3] - logits[:, 1] if len(present) == 2 else logits[:, present]
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert set(logits.argmax(axis=1)) <= set(present)


def test_an_embedding_keeps_the_distances_of_the_logits() -> None:
    (features,) = parts(90)
    model = next(regressions(features))
    logits = model.logits(features) - model.logits(features).mean(axis=1, keepdims=True)
    for dimensions, kept in ((8, 2), (1, 1)):  # three classes differ in two directions
        weight, bias = model.embedding(dimensions, features)
        embeddings = features.values @ weight.T + bias
        assert embeddings.shape == (90, kept)
        if kept == 2:
            np.testing.assert_allclose(cdist(embeddings, embeddings), cdist(logits, logits), atol=1e-9)
    first = np.linalg.svd(logits, compute_uv=False)[0]  # of one direction there is the largest
    assert np.linalg.norm(embeddings) == pytest.approx(first)


def test_nearest_neighbours_by_the_cosine_vote_as_in_a_plain_loop() -> None:
    train, val, test = parts(30, 60, 60)

    def accuracy(k: int, part: Features) -> float:
        right = []
        for value, label in zip(part.values, part.labels, strict=True):
            cosine = train.values @ value / np.linalg.norm(train.values, axis=1)
            votes = np.bincount(train.labels[np.argsort(-cosine)[:k]])
            right.append(votes.argmax() == label)
        return float(np.mean(right))

    found = nearest_probe(train, val, test)
    best = max((1, 5, 20), key=lambda k: accuracy(k, val))
    assert found == {"k": best, "val/knn": accuracy(best, val), "test/knn": accuracy(best, test)}
    few = Features(train.values[:4], train.labels[:4])
    assert nearest_probe(few, val, test)["k"] == 1  # of four images five cannot vote


def test_a_fit_that_does_not_converge_is_said_and_what_cannot_be_fitted_has_a_reason() -> None:
    train, val, test = parts(90, 60, 60)
    found, _ = linear_probe(train, val, test, iterations=1)
    assert not found["converged"]
    assert probe_words(found).endswith("; the regression did not converge)")
    with pytest.raises(ValueError, match="the training images are of one class"):
        linear_probe(replace(train, labels=np.ones(90, dtype=np.int64)), val, test)
    test.values[3, 4] = np.nan
    with pytest.raises(ValueError, match="some features are no finite numbers"):
        linear_probe(train, val, test)


def test_the_verification_probe_is_the_auc_of_the_cosine() -> None:
    (features,) = parts(200)
    features.values[0] = 0  # which has no direction
    first, second = evaluation_pairs(features.labels, 6000)  # more than are computed at once
    assert len(first) > 4096
    is_same = features.labels[first] == features.labels[second]
    distance = paired_cosine_distances(features.values[first], features.values[second])
    # scikit-learn calls the cosine of a vector without direction 1/2, not 0
    distance[(first == 0) | (second == 0)] = 1
    expected = roc_auc_score(is_same, -distance.round(12))
    assert verification_probe(features, first, second, is_same) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_a_run_is_probed_by_the_features_of_its_untouched_backbone(
    tiny: Callable[..., Config], tmp_path: Path, watched: Watched, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a plain loop over torchvision's network, of images as they are; that it is trained later does not matter."""
    config = tiny(CLASSIFIER, "data.augment=affine", "data.image_size=16", LONG, stages=2)
    result = run_experiment(config, tmp_path)
    network = resnet18()
    network.fc = nn.Identity()
    names = {name.removeprefix("backbone."): value for name, value in watched.initial.items()}
    network.load_state_dict({name: value for name, value in names.items() if name in network.state_dict()})
    network.eval()
    data = build_data(config)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    found = []
    for part, indices in data.split.parts().items():
        images = data.parts["plain" if part == "train" else part]
        batch = images[[(0, position) for position in range(len(images))]]
        assert batch.index.tolist() == indices.tolist()
        with torch.inference_mode():
            features = network((batch.inputs.float() / 255 - mean) / std).double().numpy()
        found.append(Features(features, batch.target.numpy()))
    expected = {"features": 512, **linear_probe(*found)[0], **nearest_probe(*found)}
    assert result.probe == pytest.approx(expected, abs=0.006)  # two images of 359, by rounding in other batches
    assert read_result(tmp_path).probe == result.probe
    assert result.timing["probe_seconds"] > 0
    values = {key: f"{value:.4f}" for key, value in result.probe.items()}
    said = (
        f"probe     {values['test/accuracy']} by logistic regression, {values['test/knn']} by nearest neighbours "
        f"on the untouched features (val {values['val/accuracy']}, {values['val/knn']})\n"
    )
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_a_siamese_run_is_probed_by_the_cosine(small: Callable[..., Config], tmp_path: Path) -> None:
    result = run_experiment(small(SIAMESE, LONG), tmp_path)
    measured = {f"{part}/{name}" for part in ("val", "test") for name in ("auc", "recall@1", "identity_accuracy")}
    assert result.probe.keys() == {"features", "C", "converged", *measured}
    assert result.probe["test/recall@1"] > 0.1  # chance
    assert result.probe["features"] == 8
    assert 0.5 < result.probe["test/auc"] < 1


@pytest.mark.slow
def test_the_probe_changes_no_number_of_the_run(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where dropout, augmentation and loader processes draw at random."""
    words = ("data.augment=affine", "data.num_workers=1", "task.head=hidden", "task.dropout=0.3", LONG)
    config = replace(small(CLASSIFIER, *words, stages=2), cache=CacheConfig(images="off"))
    assert "val/accuracy" in run_experiment(config, tmp_path / "with").probe
    monkeypatch.setattr(Probe, "on_stage_start", lambda *_: None)
    assert run_experiment(config, tmp_path / "without").probe == {}
    ours, plain = (tmp_path / name for name in ("with", "without"))
    assert (ours / "metrics.csv").read_text() == (plain / "metrics.csv").read_text()
    last, expected = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (ours, plain))
    for name, value in expected["state_dict"].items():
        assert torch.equal(last["state_dict"][name], value), name


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_the_probe_of_its_beginning(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(CLASSIFIER, "data.augment=none", LONG, stages=2)

    def press(self: StagedTask, *_: Any) -> None:
        if self.trainer.current_epoch == 6:  # the backbone is open
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StagedTask, "on_train_batch_start", press, raising=False)
        with pytest.raises(Interrupted):
            run_experiment(config, tmp_path)
    before = read_result(tmp_path)
    assert before.status == "interrupted"
    monkeypatch.setattr(probe, "linear_probe", lambda *_: pytest.fail("it was fitted again"))
    after = run_experiment(config, tmp_path, resume=True)
    assert after.status == "completed"
    assert after.probe == before.probe
    assert before.probe["features"] == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "most", "reason"),
    [
        (("cache=off",), 1e9, "its features would come from the cache, which is off (cache=auto)"),
        ((), 1e9, "it would compute 1,438 images, and training only 256"),
        ((LONG,), 1e4, "1,079 images x 8 features x 10 classes are too many for its regression"),
    ],
)
def test_a_probe_that_would_cost_too_much_is_left_out_with_its_reason(
    words: tuple[str, ...],
    most: float,
    reason: str,
    small: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(probe, "MOST_FITTED", most)
    result = run_experiment(small(CLASSIFIER, *words), tmp_path)
    assert result.probe["left_out"] == reason
    assert f"left out: {reason}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_features_that_are_no_numbers_leave_the_probe_out_and_the_run_alone(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*_: object) -> dict[str, Any]:
        raise ValueError("some features are no finite numbers")

    monkeypatch.setattr(probe, "linear_probe", spoilt)
    result = run_experiment(small(CLASSIFIER, LONG), tmp_path)
    assert (result.status, result.probe) == ("completed", {"left_out": "some features are no finite numbers"})


@pytest.mark.slow
def test_a_run_that_opens_the_backbone_at_once_has_a_probe(small: Callable[..., Config], tmp_path: Path) -> None:
    """From its second epoch on, whatever share of the images is trained on."""
    config = small(CLASSIFIER, "data.image_size=16", "data.test=0.6", "data.batch_size=180")
    config.schedule = Schedule(stages=[Stage("all", ["all"], lr=1e-3, epochs=2)])
    assert {"val/accuracy", "test/knn"} <= run_experiment(config, tmp_path).probe.keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "metric"),
    [
        ((CLASSIFIER,), "val/accuracy"),
        ((SIAMESE, "task.head=linear", "task.embedding=16"), "val/auc"),
        ((SIAMESE, "task.head=linear", "data.split=identities"), "val/auc"),
    ],
)
def test_a_head_may_begin_from_the_probe(
    words: tuple[str, ...],
    metric: str,
    small: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also its average; a rate of next to nothing leaves it as it begins."""
    config = small(*words, "data.image_size=16", "schedule.stages.0.lr=1e-12", "model.head_init=probe", "ema=0.5")
    result = run_experiment(config, tmp_path)
    assert result.best is not None
    begun, probed = result.best["value"], result.probe[metric]
    assert begun == pytest.approx(probed, abs=0.003) if metric == "val/accuracy" else begun > probed
    assert "; the head begins from the probe\n" in capsys.readouterr().out


def test_a_head_that_cannot_begin_from_the_probe_is_an_error(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MOST_FITTED", 1e4)
    reason = "1,079 images x 8 features x 10 classes are too many for its regression"
    with pytest.raises(TrainingError) as error:
        run_experiment(small(CLASSIFIER, "data.image_size=16", "model.head_init=probe"), tmp_path)
    assert str(error.value).startswith(f"model.head_init=probe: there is no probe to begin from: {reason}")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ("task=siamese", "loss=contrastive"),
            "a probe is a linear layer, and the head is hidden; add task.head=linear",
        ),
        (("task.head=hidden",), "a probe is a linear layer, and the head is hidden; add task.head=linear"),
        (("cache=off",), "its features come from the cache, which is off; use cache=auto"),
        (("model.head=keep",), "the head is that of the run with model.head=keep; leave one of them out"),
        (
            ("data=pairs", "task=siamese", "loss=contrastive"),
            "data=pairs has pairs, and no classes to learn it from; leave it out",
        ),
    ],
)
def test_what_a_head_that_begins_from_the_probe_does_not_go_with(words: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose([*words, "model.head_init=probe"])
    assert f"model.head_init=probe: {problem}" in error.value.problems


def _probed(processes: int, folder: Path) -> tuple[dict[str, Any], list[str], list[list[float]]]:
    """What is found and said in a process of so many, and what the head begins with."""
    rank = int(os.environ["RANK"]) if processes > 1 else 0
    config = compose(["data.image_size=16", f"data.batch_size={40 // processes}", "data.augment=affine"])
    data = build_data(config, rank=rank, world_size=processes)
    torch.manual_seed(0)
    backbone = own_backbone(networks.Net(), ["stem", "layer2", "layer3", "layer4"])
    task = ClassificationTask(
        backbone, nn.Linear(8, 10), nn.CrossEntropyLoss(), classes=10, make_optimizer=partial(SGD, lr=1.0)
    )
    stages = [Stage("head", ["head"], lr=1e-9, epochs=2)]
    unfreezing = StagedUnfreezing(Schedule(stages=stages, leave_frozen=True))
    store, said = Store(folder, memory_gb=1, disk_gb=1, say=print, writes=rank == 0), list[str]()
    ours = Probe(unfreezing, data, store, CacheConfig(), said.append, begins_head=True)
    several: dict[str, Any] = {"devices": 2, "strategy": DDPStrategy(process_group_backend="gloo")}
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        callbacks=[unfreezing, ours], **several if processes > 1 else {"devices": 1},
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return ours.found, said, task.head.weight.tolist()


@pytest.mark.slow
def test_of_two_processes_the_first_finds_what_one_alone_would(tmp_path: Path) -> None:
    alone, _, head = _probed(1, tmp_path / "alone")
    (found, said, weight), second = together(_probed, 2, tmp_path / "shared", folder=tmp_path / "ranks")
    assert second == (found, said, weight)
    assert said == [f"{probe_words(found)}; the head begins from the probe"]
    np.testing.assert_allclose(weight, head, atol=0.02 * np.abs(head).max())
    assert found["features"] == 8
    assert found == pytest.approx(alone, abs=0.006)
