"""MixUp and CutMix of a training batch, and what a loss is then given."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torchvision.transforms import v2

import networks
from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.data.datamodule import Batch
from stagetune.data.mixing import Mixing
from stagetune.errors import ConfigError
from stagetune.models.own import own_backbone
from stagetune.run import run_experiment
from stagetune.run.data import build_data
from stagetune.run.planning import make_plan
from stagetune.run.words import cache_words
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.network import network_of
from stagetune.tasks.classification import ClassificationTask


def batch(count: int = 12) -> Batch:
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return Batch(torch.arange(count), pixels, 0, torch.arange(count) % 5)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_images_and_classes_are_mixed_as_torchvision_does_it(mixup: float, cutmix: float) -> None:
    kinds = ((v2.MixUp, mixup), (v2.CutMix, cutmix))
    chosen = [kind(alpha=alpha, num_classes=5) for kind, alpha in kinds if alpha]
    mixing, seen = Mixing(mixup, cutmix, classes=5), set()
    for seed in range(8):
        torch.manual_seed(seed)
        mixed = mixing(batch())
        torch.manual_seed(seed)
        images, shares = v2.RandomChoice(chosen)(batch().inputs.float(), batch().target)
        assert torch.equal(mixed.inputs, images)
        assert torch.equal(mixed.target, shares)
        assert mixed.target.sum(dim=1).allclose(torch.ones(12))
        assert torch.equal(mixed.index, batch().index)
        seen.add(bool((mixed.inputs == mixed.inputs.round()).all()))
    assert seen == {kind for kind, alpha in ((False, mixup), (True, cutmix)) if alpha}  # blended, or pasted


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"label_smoothing": 0.1}, {"weight": torch.arange(1.0, 6.0)}])
def test_a_step_trains_on_the_mixed_batch_also_in_parts(settings: dict[str, Any]) -> None:
    gradients, loss = [], nn.CrossEntropyLoss(**settings)
    for chunks in (None, 1, 3):
        torch.manual_seed(0)
        backbone = own_backbone(networks.Net(8), ["stem", "layer2", "layer3", "layer4"], 32)
        mixing = Mixing(0.4, 1.0, classes=5)
        task = ClassificationTask(
            backbone, nn.Linear(8, 5), loss, classes=5, make_optimizer=SGD, chunks=chunks or 1, mixing=mixing
        )
        Freezing(network_of(task)).open_only({name for name, _ in task.named_parameters()}, batch_norm="frozen")
        torch.manual_seed(7)
        if chunks is None:
            mixed = mixing(batch())
            cost = loss(task(mixed.inputs), mixed.target)
        else:
            cost = task.training_step(batch(), 0)
        cost.backward()
        gradients.append([p.grad for p in task.parameters() if p.grad is not None])
    for found in gradients[1:]:
        torch.testing.assert_close(found, gradients[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.augment=none"], "training and validation; cache.views=4 has no effect without augmentation"),
        (["data.augment=affine"], "training and validation, 4 views of each image"),
        (["data.augment=affine", "data.mixup=0.2"], "; cache.views=4 makes its augmentations fewer, not faster"),
        (["data.augment=none", "data.mixup=0.2"], " (data.mixup, data.cutmix)"),
    ],
)
def test_what_views_are_worth_is_said(overrides: list[str], said: str) -> None:
    config = compose(["model=resnet18", "data.image_size=32", "cache.views=4", *overrides])
    assert cache_words(config, build_data(config)).endswith(said)


@pytest.mark.slow
def test_a_run_mixes_in_training_alone_and_says_that_it_is_not_cached(
    tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(
        "+experiment=classifier_staged", "data.augment=none", "data.mixup=0.2", "data.sampler=balanced", stages=1
    )
    result = run_experiment(config, tmp_path / "run")
    assert result.stages[0]["cache"].keys() == {"val"}
    said = "validation only: training mixes its images anew in each epoch (data.mixup, data.cutmix)"
    screen = " ".join(capsys.readouterr().out.split())
    assert said in screen
    assert "batches of 64 images of balanced classes" in screen
    assert said in (tmp_path / "run" / "plan.txt").read_text()


@pytest.mark.slow
def test_a_loss_of_ones_own_is_given_shares_and_must_take_them(tiny: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_experiment(tiny("loss._target_=torch.nn.MultiMarginLoss", "data.cutmix=1.0"), tmp_path / "run")
    (problem,) = caught.value.problems
    assert problem.startswith(
        "loss._target_=torch.nn.MultiMarginLoss: cannot take outputs [4, 10] and shares [4, 10]: RuntimeError: "
    )
    assert problem.endswith("; these are the targets under data.mixup and data.cutmix; take them, or leave those out")
    assert make_plan(compose(["model=resnet18", "loss._target_=outside.Focal", "data.mixup=0.2"])).stages


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ["data.mixup=0.2"],
            "data.mixup=0.2: mixes classes, and task=siamese compares identities; leave it out, or use "
            "task=classifier",
        ),
        (
            ["data.sampler=balanced"],
            "data.sampler=balanced: has no effect with task.batches=identities, which has as many images of each "
            "identity in a batch; leave it out, or add task.batches=uniform",
        ),
    ],
)
def test_what_is_for_classes_is_refused_of_identities(words: list[str], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["task=siamese", "loss=contrastive", *words])
    assert caught.value.problems == [problem]
    assert compose(["task=siamese", "loss=contrastive", "task.batches=uniform", "data.sampler=balanced"])
