"""An augmentation of the user's own: each view is a pure function of (data.seed, image, view)."""

import pickle
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stagetune.artifacts import RunDir
from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.config.validate import read_config
from stagetune.data.augmentation import Augmentation
from stagetune.data.datamodule import StagedData
from stagetune.data.own_transform import own_transform, seeded
from stagetune.data.sources.digits import Digits
from stagetune.data.splits import make_split
from stagetune.data.transforms import prepare
from stagetune.errors import ConfigError, DataError
from stagetune.inference.description import Preprocessing
from stagetune.inference.transform import Transform
from stagetune.run.experiment import run_experiment

V2 = "torchvision.transforms.v2"
SPECKLE = {"_target_": "outside.Speckle", "share": 0.3}
WORK = [
    {"_target_": f"{V2}.RandAugment"},
    {"_target_": f"{V2}.TrivialAugmentWide"},
    {"_target_": f"{V2}.ColorJitter", "brightness": 0.5, "hue": 0.2},
    {"_target_": f"{V2}.RandomErasing", "p": 0.5},
    {"_target_": "outside.with_pillow", "_partial_": True, "strength": 0.4},
    *({**SPECKLE, "by": by} for by in ("torch", "python", "numpy")),
    {"_target_": f"{V2}.Compose", "transforms": [{**SPECKLE, "by": "numpy"}, {"_target_": f"{V2}.RandAugment"}]},
]


def data_with(settings: dict[str, Any] | None, *, kind: str = "none", data_seed: int = 0, **more: Any) -> StagedData:
    source = Digits()
    split = make_split(source, by="images", val=0.2, test=0.2, seed=0)
    augmentation = Augmentation(kind, settings and own_transform(settings), seed=data_seed)
    return StagedData(source, split, image_size=16, batch_size=40, augmentation=augmentation, **more)


def epoch_of(data: StagedData, epoch: int) -> torch.Tensor:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return next(iter(loader)).inputs


@pytest.mark.parametrize("settings", WORK, ids=lambda settings: settings["_target_"].rpartition(".")[2])
def test_what_is_drawn_follows_from_seed_image_and_view(settings: dict[str, Any]) -> None:
    own, image = own_transform(settings), prepare(Digits().image(5), 16)
    before = image.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    drawn = [own(image, seed=seed, key=(0, i)) for seed in (0, 1) for i in range(20)]
    again = [own(image, seed=seed, key=(0, i)) for seed in (0, 1) for i in range(20)]
    assert all(torch.equal(*pair) for pair in zip(drawn, again, strict=True))
    assert len({one.numpy().tobytes() for one in drawn}) > 10
    assert {(one.dtype, one.shape) for one in drawn} == {(torch.uint8, (3, 16, 16))}
    assert torch.equal(image, before)  # though some work in place
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(states[0], after[0])
    assert states[1:] == after[1:]


def test_it_comes_after_ours_with_other_numbers_and_to_training_images_alone() -> None:
    speckle = own_transform({**SPECKLE, "share": 0.5})
    data = data_with({**SPECKLE, "share": 0.5}, kind="affine", data_seed=7)
    index = int(data.split.train[3])
    turned = Augmentation("affine", seed=7)(prepare(data.source.image(index), 16), index, 2)
    assert torch.equal(data.parts["train"][[(2, 3)]].inputs[0], speckle(turned, seed=7, key=(index, 2)))
    plain = data_with(None)
    for part in ("val", "test"):
        keys = [(0, i) for i in range(9)]
        assert torch.equal(data.parts[part][keys].inputs, plain.parts[part][keys].inputs)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [WORK[0], WORK[4], WORK[8]], ids=["RandAugment", "with_pillow", "Compose"])
def test_loader_processes_give_the_same_images(settings: dict[str, Any]) -> None:
    data = data_with(settings, num_workers=2)
    assert torch.equal(epoch_of(data, 3), epoch_of(data_with(settings), 3))
    keys = [(4, 0), (5, 1)]
    copied = pickle.loads(pickle.dumps(data.parts["train"]))  # as a process that is not forked gets it
    assert torch.equal(copied[keys].inputs, data.parts["train"][keys].inputs)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"_target_": "outside.as_float", "_partial_": True},
            "data.transform=outside.as_float gives float32 [3, 16, 16], not an image uint8 [3, 16, 16]; leave out "
            "ToTensor and Normalize, since scaling and normalisation are the backbone's",
        ),
        (
            {"_target_": "outside.as_pillow", "_partial_": True},
            "data.transform=outside.as_pillow gives PIL.Image.Image, not an image uint8 [3, 16, 16]; end it with "
            "torchvision.transforms.v2.PILToTensor, or with torch.from_numpy and permute(2, 0, 1)",
        ),
        (
            {"_target_": "outside.smaller", "_partial_": True},
            "data.transform=outside.smaller gives uint8 [3, 15, 16], not an image uint8 [3, 16, 16]; keep its size "
            "and three channels; the size is data.image_size, and normalisation the backbone's",
        ),
        (
            {**SPECKLE, "by": "itself"},
            "data.transform=outside.Speckle draws random numbers of its own, so that no run could be repeated; let "
            "it take torch's, Python's or numpy's, or seed it in a function of your own with torch.initial_seed()",
        ),
        (
            {"_target_": f"{V2}.RandomCrop", "size": 99},
            f"data.transform={V2}.RandomCrop cannot take an image as uint8 tensor [3, 16, 16]: ValueError: "
            "Required crop size (99, 99) is larger than input image size (16, 16).",
        ),
    ],
)
def test_what_gives_no_image_of_ours_is_refused_before_training(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(DataError) as caught:
        data_with(settings)
    assert str(caught.value) == problem


def test_a_trained_model_prepares_images_as_its_run_did_and_those_of_before_were_cropped() -> None:
    wide = torch.zeros(3, 20, 40, dtype=torch.uint8)
    wide[:, :, 10:30] = 200
    kept = {resize: asdict(compose(["data.image_size=16", f"data.resize={resize}"])) for resize in ("crop", "pad")}
    kept["before"] = kept["crop"] | {"data": {k: v for k, v in kept["crop"]["data"].items() if k != "resize"}}
    seen = {name: Transform(Preprocessing.of(read_config(values)))(wide) for name, values in kept.items()}
    shares = {name: float((square > 100).float().mean()) for name, square in seen.items()}
    assert shares == {"crop": 1.0, "pad": 0.25, "before": 1.0}


def test_a_function_that_is_to_be_called_later_is_told_how(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny("+experiment=classifier_staged", "+data.transform._target_=outside.with_pillow")
    with pytest.raises(ConfigError) as caught:
        run_experiment(config, tmp_path)
    assert caught.value.problems == [
        "data.transform: lacks image: with_pillow(image, strength=0.5); if it is to be called with that later, add "
        "data.transform._partial_=true"
    ]


def test_the_seed_within_is_the_one_that_torch_tells() -> None:
    """By which a library with generators of its own may be seeded."""
    with seeded(1234):
        assert torch.initial_seed() == 1234


def test_the_cache_tells_transforms_apart_and_keeps_their_views() -> None:
    plain, one, other, reseeded = (
        data_with(settings, data_seed=seed, views=2)
        for settings, seed in ((None, 0), (SPECKLE, 0), ({**SPECKLE, "share": 0.2}, 0), (SPECKLE, 1))
    )
    assert [data.parts["train"].distinct_views for data in (plain, one)] == [1, 2]
    assert plain.parts["train"].views_key is None
    assert len({str(data.parts["train"].views_key) for data in (plain, one, other, reseeded)}) == 4
    assert data_with(SPECKLE).parts["train"].distinct_views == 0


@pytest.mark.slow
def test_a_run_with_a_transform_and_the_cache_equals_one_without(tiny: Callable[..., Config], tmp_path: Path) -> None:
    words = [
        "+experiment=classifier_staged", "data.augment=none", "cache.views=2", "data.batch_size=16",
        "+data.transform={_target_: outside.Speckle, share: 0.3, by: numpy}",
    ]  # fmt: skip
    results = []
    for name, cache in (("cached", "auto"), ("computed", "off")):
        config = tiny(*words, f"cache={cache}", stages=1)
        config.schedule.stages[0].epochs = 4
        results.append(run_experiment(config, tmp_path / name))
    cached, computed = results
    assert cached.stages[0]["cache"]["train"]["used"]
    assert RunDir(tmp_path / "cached").cache.exists()
    assert cached.test["test/loss"] == pytest.approx(computed.test["test/loss"], rel=1e-4)
