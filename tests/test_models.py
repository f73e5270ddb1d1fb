"""Backbones keep torchvision's names and numbers; weights are loaded whole or refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torchvision import models

from stagetune.config.compose import CONF, compose
from stagetune.errors import ConfigError
from stagetune.models.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone
from stagetune.models.backbones import resnet, vgg
from stagetune.models.heads import EmbeddingHead, Similarity
from stagetune.models.own import own_backbone
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.network import describe, network_of
from stagetune.schedule.resolve import make_plan


def images(count: int = 2, size: int = 64) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def build_backbone(arch: str, **settings: Any) -> Backbone:
    family = vgg if arch.startswith("vgg") else resnet
    return family.Settings(arch=arch, **settings).build(64)


OPTIONS = [yaml.safe_load(path.read_text()) for path in sorted((CONF / "model").glob("*.yaml"))]
ARCHS = [option["arch"] for option in OPTIONS if option["name"] in ("resnet", "vgg")]  # by our own blocks


@pytest.mark.parametrize("arch", ARCHS)
def test_parameter_names_are_torchvisions(arch: str) -> None:
    with torch.device("meta"):
        theirs = models.get_model(arch, weights=None).state_dict()
        ours = build_backbone(arch)
    assert list(ours.state_dict()) == [name for name in theirs if not name.startswith(("fc.", "classifier."))]
    assert list(ours.blocks) == ["stem", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("schedule", ["staged", "gradual", "last_n", "quartiles", "surgical", "top_blocks"])
def test_a_schedule_by_blocks_or_position_fits_every_architecture(arch: str, schedule: str) -> None:
    module = nn.Module()
    with torch.device("meta"):
        module.backbone = build_backbone(arch)
        module.head = nn.Linear(module.backbone.out_features, 10)
    plan = make_plan(compose([f"schedule={schedule}"]).schedule, describe(module))
    assert sorted(name for group in plan.groups for name in group.parameters) == sorted(
        dict(module.named_parameters())
    )


def test_vgg_blocks_end_with_its_max_pools() -> None:
    with torch.device("meta"):
        backbone = build_backbone("vgg16")
    for layers in backbone.blocks.values():
        kinds = [type(backbone.get_submodule(layer)) for layer in layers]
        assert kinds[-1] is nn.MaxPool2d
        assert kinds.count(nn.MaxPool2d) == 1


def test_features_are_torchvisions_on_normalised_images() -> None:
    torch.manual_seed(0)
    theirs = models.resnet18(weights=None).eval()
    ours = build_backbone("resnet18").eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    theirs.fc = torch.nn.Identity()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        torch.testing.assert_close(ours(images()), theirs((images() / 255 - mean) / std), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "settings", "starts", "reason"),
    [
        ("resnet18", {}, (0, 1, 2, 3, 4, 5), ""),
        (
            "resnet18",
            {"stem": "small_images", "pooled": ["layer2", "layer4"]},
            (0, 1, 2, 5),
            "cannot begin after layer2, whose output is among the features (model.pooled)",
        ),
        ("vgg16", {}, (0, 1, 2, 3, 4, 5), ""),
    ],
)
def test_running_in_two_parts_is_running_at_once(
    arch: str, settings: dict[str, Any], starts: tuple[int, ...], reason: str
) -> None:
    backbone = build_backbone(arch, **settings).eval()
    assert (backbone.starts, backbone.cannot_begin) == (starts, reason)
    with torch.no_grad():
        whole = backbone(images())
        assert whole.shape == (2, backbone.out_features)
        for depth in backbone.starts:
            part = backbone(images(), stop=depth) if depth else images()
            assert torch.equal(backbone(part, start=depth), whole), depth


def test_features_of_several_blocks_stand_side_by_side() -> None:
    backbone = build_backbone("resnet18", pooled=["layer1", "layer3", "layer4"]).eval()
    with torch.no_grad():
        maps = [backbone(images(), stop=2), backbone(images(), stop=4)]
        last = build_backbone("resnet18").eval()
        last.load_state_dict(backbone.state_dict())
        expected = torch.cat([*(block.mean(dim=(2, 3)) for block in maps), last(images())], dim=1)
        torch.testing.assert_close(backbone(images()), expected)
    assert backbone.out_features == 64 + 256 + 512
    assert not backbone.training
    assert build_backbone("resnet18").training


def test_the_small_image_stem_keeps_four_times_the_resolution() -> None:
    with torch.no_grad():
        wide = build_backbone("resnet18", stem="small_images").eval()(images(size=32), stop=1)
        usual = build_backbone("resnet18").eval()(images(size=32), stop=1)
    assert (wide.shape[-1], usual.shape[-1]) == (32, 8)


def test_embeddings_have_unit_length_and_distance_zero_can_be_probably_same() -> None:
    embeddings = EmbeddingHead(16, 8)(torch.randn(5, 16))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(5))
    features = 3 + torch.randn(5, 16)
    normalised = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    own = EmbeddingHead(16, None)
    assert own.dimensions == 16
    torch.testing.assert_close(own(features), F.normalize(normalised), atol=1e-4, rtol=0)
    assert torch.sigmoid(Similarity()(torch.tensor(0.0))) > 0.9
    assert torch.sigmoid(Similarity()(torch.tensor(2.0))) < 0.1


class Own(nn.Module):
    """Not a sequence: its head comes first in its own order, and a parameter stands by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv2d(4, 6, 3)
        self.bottom = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.top(self.bottom(images)) + self.shift + (1.0 if self.training else 0.0)


def test_a_network_of_ones_own_keeps_its_names_and_follows_its_mode() -> None:
    network = Own()
    backbone = own_backbone(network, {"low": ["bottom"], "high": ["top", "shift"]})
    assert backbone.out_features == 6
    assert [name for name, _ in backbone.named_parameters()] == [name for name, _ in network.named_parameters()]
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    normalised = (images.float() / 255 - backbone.stagetune_mean) / backbone.stagetune_std
    normalised = normalised.contiguous(memory_format=torch.channels_last)
    backbone.eval()
    assert torch.equal(backbone(images), network(normalised).mean((2, 3)))
    module = nn.Module()
    module.backbone, module.head = backbone, nn.Linear(6, 2)
    described = describe(module)
    assert [p.block for p in described.parameters][-4:] == ["high", "high", "head", "head"]  # in the order given
    assert described.layers[-2:] == ("backbone", "backbone.top")  # what `last: 2` names
    freezing = Freezing(network_of(module))
    freezing.open_only({"backbone.shift", "head.weight"})
    module.train()
    assert not any(layer.training for layer in network.bottom.modules())
    assert (network.training, backbone.training) == (True, True)
    freezing.open_only({"head.weight"})
    module.train()
    assert (network.training, backbone.training) == (False, False)
    freezing.open_only({name for name, _ in module.named_parameters()})
    assert (network.training, network.bottom.training) == (True, True)


@pytest.mark.parametrize(
    ("network", "blocks", "message"),
    [
        (Own(), ["bottom", "toop"], r"model\.blocks: the network has no toop; did you mean top\?"),
        (Own(), ["bottom", "top"], r"model\.blocks: shift is in no block; name the layer that it belongs to"),
        (nn.Linear(3, 4), ["weight", "bias"], r"model: Linear cannot take images \[2, 3, 64, 64\]: "),
        (
            nn.Flatten(0),
            [],
            r"Flatten must give features \[n, f\], maps \[n, f, h, w\] or tokens \[n, t, f\], got \[24576\]",
        ),
        ("text", [], r"model\.network: is a str, no torch\.nn\.Module"),
    ],
)
def test_a_network_that_cannot_be_a_backbone_is_said_with_its_reason(network: Any, blocks: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        own_backbone(network, blocks)
