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
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import paired_cosine_distances
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.optim import SGD
from torchvision.models import resnet18

import crashing
from conftest import Watched
from ranks import together
from stagetune.cache.store import Store
from stagetune.config.compose import compose
from stagetune.config.schema import CacheConfig, Config
from stagetune.errors import Interrupted
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.probe import STRENGTHS, Features, linear_probe, verification_probe
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
        network = {"_target_": "crashing.Net"}
        config.model = own.Settings("own", network=network, blocks=["stem", "layer2", "layer3", "layer4"])
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
    found = linear_probe(train, val, test)
    assert found == {
        "val/accuracy": pytest.approx(search.best_score_),
        "test/accuracy": pytest.approx(model.score(test.values, test.labels)),
        "C": search.best_params_["logisticregression__C"],
        "features": 12,
        "converged": True,
    }
    assert found["val/accuracy"] > 0.5  # chance is a third
    assert linear_probe(train, val, test) == found


def test_a_fit_that_does_not_converge_is_said_and_what_cannot_be_fitted_has_a_reason() -> None:
    train, val, test = parts(90, 60, 60)
    found = linear_probe(train, val, test, iterations=1)
    assert not found["converged"]
    assert probe_words(found).endswith("; it did not converge)")
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
    config = tiny(CLASSIFIER, "data.augment=affine", LONG, stages=2)
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
    expected = linear_probe(*found)
    assert result.probe == pytest.approx(expected, abs=0.006)  # two images of 359, by rounding in other batches
    assert read_result(tmp_path).probe == result.probe
    assert result.timing["probe_seconds"] > 0
    said = f"probe     {result.probe['test/accuracy']:.4f} (logistic regression on the untouched features; val "
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_a_siamese_run_is_probed_by_the_cosine(small: Callable[..., Config], tmp_path: Path) -> None:
    result = run_experiment(small(SIAMESE, LONG), tmp_path)
    assert result.probe.keys() == {"features", "val/auc", "test/auc"}
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
        ((), 1e4, "1,079 images x 8 features x 10 classes are too many for its regression"),
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
    monkeypatch.setattr(probe, "MOST", most)
    result = run_experiment(small(CLASSIFIER, *words), tmp_path)
    assert result.probe == {"left_out": reason}
    assert f"probe     left out: {reason}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_features_that_are_no_numbers_leave_the_probe_out_and_the_run_alone(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*_: object) -> dict[str, Any]:
        raise ValueError("some features are no finite numbers")

    monkeypatch.setattr(probe, "linear_probe", spoilt)
    result = run_experiment(small(CLASSIFIER, LONG), tmp_path)
    assert (result.status, result.probe) == ("completed", {"left_out": "some features are no finite numbers"})


def test_a_run_that_opens_the_backbone_at_once_has_no_probe(small: Callable[..., Config], tmp_path: Path) -> None:
    config = small(CLASSIFIER)
    config.schedule = Schedule(stages=[Stage("all", ["all"], lr=1e-3)])
    assert run_experiment(config, tmp_path).probe == {}


def _probed(processes: int, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What is found and said in a process of so many."""
    rank = int(os.environ["RANK"]) if processes > 1 else 0
    config = compose(["data.image_size=16", f"data.batch_size={40 // processes}", "data.augment=affine"])
    data = build_data(config, rank=rank, world_size=processes)
    torch.manual_seed(0)
    backbone = own_backbone(crashing.Net(), ["stem", "layer2", "layer3", "layer4"])
    task = ClassificationTask(
        backbone, nn.Linear(8, 10), nn.CrossEntropyLoss(), classes=10, make_optimizer=partial(SGD, lr=1.0)
    )
    stages = [Stage("head", ["head"], lr=0.1, epochs=2)]
    unfreezing = StagedUnfreezing(Schedule(stages=stages, leave_frozen=True))
    store, said = Store(folder, memory_gb=1, disk_gb=1, say=print, writes=rank == 0), list[str]()
    ours = Probe(unfreezing, data, store, CacheConfig(), said.append)
    several: dict[str, Any] = {"devices": 2, "strategy": DDPStrategy(process_group_backend="gloo")}
    trainer = Trainer(
        accelerator="cpu", max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        callbacks=[unfreezing, ours], **several if processes > 1 else {"devices": 1},
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    return ours.found, said


@pytest.mark.slow
def test_of_two_processes_the_first_finds_what_one_alone_would(tmp_path: Path) -> None:
    alone, _ = _probed(1, tmp_path / "alone")
    (found, said), second = together(_probed, 2, tmp_path / "shared", folder=tmp_path / "ranks")
    assert second == (found, said)
    assert said == [probe_words(found)]
    assert found["features"] == 8
    assert found == pytest.approx(alone, abs=0.006)
