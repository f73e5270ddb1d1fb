"""Every family as a backbone: plans, freezing, and running on from what is stored at a depth."""

import copy
import functools
import pickle
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision import models

from stagetune.cache.features import from_rows, to_rows
from stagetune.cache.features import outputs as outputs_at
from stagetune.config.compose import CONF, compose
from stagetune.config.monitor import watched
from stagetune.config.settings import BLOCKS
from stagetune.errors import ConfigError
from stagetune.models.backbone import Backbone
from stagetune.models.backbones import own
from stagetune.models.backbones import timm as timm_family
from stagetune.models.gather import gather
from stagetune.models.own import own_backbone
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.model import Model
from stagetune.schedule.network import describe, network_of
from stagetune.schedule.resolve import make_plan
from stagetune.schedule.spec import Schedule

TORCHVISION = {  # family: a small network of it
    "resnet": "resnext50_32x4d",
    "vgg": "vgg11_bn",
    "convnext": "convnext_tiny",
    "efficientnet": "efficientnet_b0",
    "regnet": "regnet_x_400mf",
    "densenet": "densenet121",
    "mobilenetv3": "mobilenet_v3_small",
    "swin": "swin_v2_t",
    "vit": "vit_b_32",
}
TIMM = {  # the smallest images each takes, where they are not of 32 pixels
    "coatnet_nano_rw_224": 32, "cait_xxs24_224": 32, "coat_lite_tiny": 32, "convmixer_768_32": 32,
    "convnext_atto": 32, "convnextv2_atto": 32, "cs3darknet_s": 32, "davit_tiny": 32, "deit_tiny_patch16_224": 32,
    "densenet121": 32, "dla34": 32, "dpn68": 32, "edgenext_xx_small": 32, "efficientformerv2_s0": 32,
    "efficientnet_b0": 32, "eva02_tiny_patch14_224": 32, "fastvit_t8": 32, "focalnet_tiny_srf": 32,
    "ghostnet_050": 32, "hgnet_tiny": 32, "inception_v3": 96, "levit_128s": 32, "mambaout_femto": 32,
    "maxvit_rmlp_nano_rw_256": 32, "mixer_s32_224": 32, "mobilenetv3_small_050": 32, "mobilevit_xxs": 32,
    "nest_tiny": 32, "poolformer_s12": 32, "pvt_v2_b0": 32, "regnetx_002": 32, "repvgg_a0": 32, "repvit_m0_9": 32,
    "resmlp_12_224": 32, "resnet18": 32, "rexnet_100": 32, "sequencer2d_s": 32, "starnet_s1": 32,
    "swin_tiny_patch4_window7_224": 32, "tiny_vit_5m_224": 32, "twins_svt_small": 32, "visformer_tiny": 32,
    "vit_tiny_patch16_224": 32, "volo_d1_224": 32, "xcit_nano_12_p16_224": 32,
}  # fmt: skip
SEVERAL = "its input is not one tensor with a row for each image"
SKIPS = "later layers also read what comes before it"
PARTLY = {  # families with several streams: where they can begin, and why not elsewhere
    "crossvit_tiny_240": (240, (0, 5), f"cannot begin at layer1: {SKIPS}; cannot begin at layer2: {SEVERAL}"),
    "hrnet_w18_small": (32, (0, 1, 5), f"cannot begin at layer2: {SEVERAL}"),
    "pit_ti_224": (32, (0, 3, 4, 5), f"cannot begin at layer1: {SEVERAL}; cannot begin at layer2: {SKIPS}"),
    "selecsls42": (32, (0, 5), f"cannot begin at layer1: {SEVERAL}"),
}


def images(size: int, count: int = 3) -> Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ).contiguous(memory_format=torch.channels_last)


def under_a_head(backbone: nn.Module) -> nn.Module:
    module = nn.Module()
    module.backbone, module.head = backbone, nn.Linear(int(backbone.out_features), 2)  # type: ignore[arg-type]
    return module


@functools.cache
def _schedule(name: str) -> Schedule:
    return watched(compose([f"schedule={name}"]))


def settings_of(family: str, arch: str) -> Any:
    return import_module(f"stagetune.models.backbones.{family}").Settings(arch=arch)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def check_depths(backbone: Backbone, pixels: Tensor) -> None:
    """Running on from each depth, from rows as they are stored, gives what the whole run gives."""
    backbone.eval()
    with torch.no_grad():
        whole = backbone(pixels)
        assert whole.shape == (len(pixels), backbone.out_features)
        for depth in backbone.starts:
            rows = to_rows(backbone(pixels, stop=depth)) if depth else pixels
            again = backbone(from_rows(rows) if depth else rows, start=depth)
            assert (again - whole).abs().max() <= 1e-6 * whole.abs().max(), depth


def check_training(backbone: Backbone, pixels: Tensor) -> None:
    """With all but layer4 frozen the prefix is the same in train mode, and so are gradients from what is stored."""
    module = under_a_head(backbone)
    plan = make_plan(_schedule("staged"), describe(module))
    assert plan.stages[0].open_blocks == ("head",)
    rates = [plan.stages[2].rates[group] for group in (f"backbone.{block}" for block in BLOCKS)]
    assert rates == sorted(rates)
    assert rates[0] > 0
    freezing = Freezing(network_of(module))
    freezing.open_only(set(plan.stages[1].open))
    module.train()
    frozen = {name for block in BLOCKS[:4] for name in backbone.blocks[block]}
    for name, layer in backbone.named_modules():
        assert not (layer.training and name in frozen), name
    depth = max(start for start in backbone.starts if start <= 4)
    stored = backbone(pixels, stop=depth).detach() if depth else pixels
    assert not depth or torch.equal(stored, backbone(pixels, stop=depth))
    gradients = []
    for inputs, start in ((pixels, 0), (stored, depth)):
        module.zero_grad()
        state = copy.deepcopy(module.state_dict())
        torch.manual_seed(1)
        backbone(inputs, start=start).square().sum().backward()
        module.load_state_dict(state)
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
    assert gradients[0]
    assert gradients[0].keys() == gradients[1].keys() <= set(plan.stages[1].open)
    scale = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert (gradients[1][name] - gradient).abs().max() <= 1e-4 * scale, name
    freezing.release()


@pytest.mark.slow
@pytest.mark.parametrize("family", TORCHVISION)
def test_a_family_of_torchvisions_gives_its_features_from_every_depth(family: str) -> None:
    arch, pixels = TORCHVISION[family], images(32)
    backbone = settings_of(family, arch).build(32)
    assert list(backbone.blocks) == list(BLOCKS)
    assert (backbone.starts, backbone.cannot_begin) == ((0, 1, 2, 3, 4, 5), "")
    check_depths(backbone, pixels)
    # ours has all the weights that are looked at; a regnet cannot be made without
    with torch.device("cpu" if family == "regnet" else "meta"):
        theirs = models.get_model(arch, weights=None, **({"image_size": 32} if family == "vit" else {}))
    theirs = theirs.to_empty(device="cpu").eval()
    found = theirs.load_state_dict(backbone.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert {name.split(".")[0] for name in found.missing_keys} <= {"fc", "classifier", "head", "heads"}
    seen: list[Tensor] = []
    first = next(layer for name, layer in theirs.named_modules() if f"{name}.weight" in found.missing_keys)
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in backbone.normal)
    with torch.no_grad():
        theirs((pixels / 255 - mean) / std)
        if family != "vgg":  # whose classifier takes the pixels of 7x7 maps
            torch.testing.assert_close(backbone(pixels), seen[0], rtol=1e-4, atol=1e-5)
    check_training(backbone, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("arch", TIMM)
def test_a_network_of_timms_begins_at_every_block(arch: str) -> None:
    backbone, pixels = settings_of("timm", arch).build(TIMM[arch]), images(TIMM[arch])
    assert list(backbone.blocks) == list(BLOCKS)
    assert backbone.cannot_begin == ""
    assert backbone.starts == (0, 1, 2, 3, 4, 5)
    check_depths(backbone, pixels)
    check_training(backbone, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("arch", PARTLY)
def test_a_network_of_several_streams_says_where_it_cannot_begin(arch: str) -> None:
    size, starts, reason = PARTLY[arch]
    backbone = settings_of("timm", arch).build(size)
    assert backbone.starts == starts
    assert backbone.cannot_begin.startswith(reason)
    check_depths(backbone, images(size))
    check_training(backbone, images(size))


@functools.cache
def _described(family: str, arch: str) -> Model:
    with torch.device("meta"):
        backbone = settings_of(family, arch).build(TIMM.get(arch, 224))
        assert family in ("timm", "vit") or backbone.starts == (0, 1, 2, 3, 4, 5)
        return describe(under_a_head(backbone))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [path.stem for path in sorted((CONF / "schedule").glob("*.yaml"))])
@pytest.mark.parametrize(
    ("family", "arch"), [*TORCHVISION.items(), *(("timm", arch) for arch in list(TIMM)[::5]), ("timm", "pit_ti_224")]
)
def test_every_schedule_plans_on_every_family(family: str, arch: str, schedule: str) -> None:
    model = _described(family, arch)
    plan = make_plan(_schedule(schedule), model)
    assert sorted(name for group in plan.groups for name in group.parameters) == sorted(
        parameter.name for parameter in model.parameters
    )


ARCHS = [
    (family, arch)
    for family in TORCHVISION
    for entry in fields(import_module(f"stagetune.models.backbones.{family}").Settings)
    if entry.name == "arch"
    for arch in entry.metadata["choices"]
    if not arch.startswith("regnet") or arch.endswith("mf")  # others take memory: they cannot be made without
]


@pytest.fixture
def _no_init(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at names and shapes alone."""
    for name in vars(nn.init):
        if name.endswith("_") and not name.startswith("_"):
            monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_init")
@pytest.mark.parametrize(("family", "arch"), ARCHS)
def test_every_network_of_torchvisions_keeps_its_names(family: str, arch: str) -> None:
    settings = settings_of(family, arch)
    size = settings.input().size
    with torch.device("cpu" if family == "regnet" else "meta"):
        theirs = models.get_model(arch, weights=None, **({"image_size": size} if family == "vit" else {}))
    with torch.device("meta"):
        backbone = settings.build(size)
    names = {name: value.shape for name, value in theirs.state_dict().items()}
    own_names = {name: value.shape for name, value in backbone.state_dict().items()}
    assert own_names.items() <= names.items()
    assert list(own_names) == [name for name in names if name in own_names]
    assert {name.split(".")[0] for name in names.keys() - own_names} <= {"fc", "classifier", "head", "heads"}
    assert settings.input().interpolation in ("bilinear", "bicubic")


def test_the_input_is_what_the_weights_say_or_what_is_set() -> None:
    settings = timm_family.Settings(arch="vit_tiny_patch16_224")
    assert (settings.input().mean, settings.input().interpolation) == ((0.5, 0.5, 0.5), "bicubic")
    assert settings.build(32).normal == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    settings.std = [0.25, 0.25, 0.25]
    assert settings.build(32).normal == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_a_tag_that_timm_does_not_know_is_said() -> None:
    with pytest.raises(ConfigError, match=r"=resnet18\.a1_in1: timm has no such weights of resnet18; did you mean"):
        timm_family.Settings(arch="resnet18.a1_in1").input()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "size", "message"),
    [
        (("vgg", "vgg11"), 16, r"data\.image_size=16: vgg11 cannot take such images; the next size is 32"),
        (("vit", "vit_b_32"), 80, r"data\.image_size=80: vit_b_32 cannot take such images; the next size is 96"),
        (("timm", "inception_v3"), 32, r"model: InceptionV3 cannot take images \[2, 3, 32, 32\]: RuntimeError: "),
        (("timm", "convnext_ato"), 32, r"model\.arch=convnext_ato: timm has none; did you mean convnext_atto\?"),
    ],
)
def test_what_cannot_be_built_is_said_with_what_would_do(settings: tuple[str, str], size: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_of(*settings).build(size)


def test_timm_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"model=timm: timm is not installed; pip install 'stagetune\[timm\]'"):
        timm_family.Settings().build(32)


def test_groups_are_gathered_by_resolution_where_it_is_known_else_in_quarters() -> None:
    groups = [[letter] for letter in "abcdefghi"]
    assert list(gather(groups).values()) == [["a"], ["b", "c"], ["d", "e"], ["f", "g"], ["h", "i"]]
    by_end = {"stem": ["a", "b"], "layer1": ["c"], "layer2": ["d"], "layer3": ["e", "f"], "layer4": ["g", "h", "i"]}
    assert gather(groups, [1, 2, 3, 5, 7]) == by_end
    assert gather(groups, [2, 3, 5, 7])["layer1"] == ["b", "c"]  # no end is known before: the first group is the stem


class Made(nn.Module):
    """A network of four layers that a test connects as it likes."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.stem, self.low = nn.Conv2d(3, channels, 3, 2, 1), nn.Conv2d(channels, channels, 3, padding=1)
        self.mid, self.high = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, 6, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.high(self.mid(self.low(self.stem(x))))  # type: ignore[no-any-return]


FOUR = ["stem", "low", "mid", "high"]


class Skip(Made):
    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        return self.high(self.mid(self.low(first)) + first)  # type: ignore[no-any-return]


class ZeroSkip(Made):
    """At first nothing comes through."""

    def __init__(self) -> None:
        super().__init__()
        self.mid.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x)
        return self.high(self.mid(self.low(first)) + self.mid.gate * first)  # type: ignore[no-any-return]


class Residual(Made):
    """What a block takes is also added to what it gives: both read the one tensor that is stored."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.low(x)
        x = F.relu(x)  # no layer gives it
        x = self.mid(x)
        return self.high(x)  # type: ignore[no-any-return]


class GlueResidual(Made):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.low(self.stem(x)))
        return self.high(x + self.mid(x))  # type: ignore[no-any-return]


class InPlace(Made):
    """A block begins with an activation that writes to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.mid = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))  # type: ignore[assignment]


class Shared(Made):
    """One layer stands in two blocks, and one activation is called everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.norm = nn.ReLU(), nn.BatchNorm2d(4)
        self.low = nn.Sequential(self.low, self.norm)  # type: ignore[assignment]
        self.mid = nn.Sequential(self.mid, self.norm)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.high(self.act(self.mid(self.act(self.low(x)))))  # type: ignore[no-any-return]


class Turn(nn.Module):
    """Angles by position, as in rotary embeddings: they depend on the shape alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[-1], dtype=x.dtype, device=x.device).cos()


class Turned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor, angles: Tensor, *, scale: float) -> Tensor:
        return self.conv(x * angles) * scale  # type: ignore[no-any-return]


class Rotary(Made):
    def __init__(self) -> None:
        super().__init__()
        self.turn, self.low, self.mid = Turn(), Turned(), Turned()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        angles = self.turn(x)
        x = self.mid(self.low(x, angles, scale=2.0), angles, scale=3.0)
        return self.high(x)  # type: ignore[no-any-return]


class Dropped(Made):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.later = nn.Dropout(0.5), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.high(self.later(self.mid(self.low(self.drop(self.stem(x))))))  # type: ignore[no-any-return]


class EarlyReader(Made):
    """A parameter of a late block is read early."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.shift)


class Checkpointed(Made):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in (self.low, self.mid, self.high):
            x = checkpoint(block, x, use_reentrant=False)
        return x


class CheckpointedTogether(Made):
    """In training only, so that trying it out in eval mode does not show it."""

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.Sequential(self.low, self.mid, self.high)
        x = self.stem(x)
        return checkpoint(inner, x, use_reentrant=False) if self.training else inner(x)  # type: ignore[no-any-return]


ALL = (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("network", "blocks", "starts", "reason"),
    [
        (Made(), FOUR, ALL, ""),
        (Skip(), FOUR, (0, 1, 3, 4), f"cannot begin at mid: {SKIPS}"),
        (ZeroSkip(), FOUR, (0, 1, 3, 4), f"cannot begin at mid: {SKIPS}"),
        (Residual(), FOUR, ALL, ""),
        (GlueResidual(), FOUR, (0, 1, 3, 4), f"cannot begin at mid: {SKIPS}"),
        (InPlace(), FOUR, ALL, ""),
        (Shared(), {"stem": ["stem"], "low": ["low"], "mid": ["mid.0"], "high": ["high"]}, ALL, ""),
        (Rotary(), FOUR, ALL, ""),
        (Dropped(), FOUR, ALL, ""),
        (Checkpointed(), FOUR, ALL, ""),
        (EarlyReader(), {**{name: [name] for name in FOUR}, "high": ["high", "shift"]}, (0, 4),
         "cannot begin at low: what comes before it reads shift, which stands in high; "),
        (Made(), ["stem", "mid", "low", "high"],
         (0, 3, 4), "cannot begin at mid: what comes before it reads low.bias, which stands in low; "
         "cannot begin at low: its layers run before those of mid"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)  # fmt: skip
def test_an_own_network_begins_where_its_forward_allows(
    network: nn.Module, blocks: Any, starts: tuple[int, ...], reason: str
) -> None:
    pixels = images(16)
    backbone = own_backbone(copy.deepcopy(network), blocks, 16)
    assert backbone.starts == starts
    assert backbone.cannot_begin.startswith(reason)
    assert bool(backbone.cannot_begin) == bool(reason)
    check_depths(backbone, pixels)
    whole = backbone(pixels)
    for depth in starts[1:-1]:
        stored = backbone(pixels, stop=depth).detach()
        before = stored.clone()
        late = [parameter for block in list(backbone.blocks)[depth:] for parameter in parameters_of(backbone, block)]
        expected = torch.autograd.grad(whole.square().sum(), late, retain_graph=True)
        found = torch.autograd.grad(backbone(stored, start=depth).square().sum(), late)
        for gradient, same in zip(expected, found, strict=True):
            torch.testing.assert_close(gradient, same)
        assert torch.equal(stored, before)


def parameters_of(backbone: nn.Module, block: str) -> list[nn.Parameter]:
    names = backbone.blocks[block]  # type: ignore[index]
    return [
        parameter
        for name, parameter in backbone.named_parameters()
        if any(name == own or name.startswith(f"{own}.") for own in names)
    ]


def test_nothing_stays_on_the_network_after_a_call() -> None:
    backbone, pixels = own_backbone(Residual(), FOUR, 16).eval(), images(16)
    before = {name: dict(vars(layer)) for name, layer in backbone.named_modules()}
    stored = backbone(pixels, stop=2)
    with pytest.raises(ValueError, match=r"mid takes \[n, 4, 8, 8\], got \[3, 4, 7, 7\]"):
        backbone(stored[..., 1:, 1:], start=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = backbone(pixels)
        torch.testing.assert_close(backbone(backbone(pixels, stop=2), start=2), half)
    assert {name: dict(vars(layer)) for name, layer in backbone.named_modules()} == before
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert torch.equal(twin(stored, start=2), backbone(pixels))
        assert list(twin.state_dict()) == list(Residual().state_dict())
    torch.testing.assert_close(backbone(backbone(stored, start=2, stop=3), start=3), backbone(pixels))


@pytest.mark.slow
def test_layers_without_parameters_are_frozen_with_the_block_in_whose_part_they_run() -> None:
    backbone, pixels = own_backbone(Dropped(), FOUR, 16), images(16)
    assert backbone.blocks == {"stem": ("stem", "drop"), "low": ("low",), "mid": ("mid", "later"), "high": ("high",)}
    module = under_a_head(backbone)
    freezing = Freezing(network_of(module))
    freezing.open_only({"backbone.mid.weight", "backbone.high.weight", "head.weight"})
    module.train()
    assert torch.equal(backbone(pixels, stop=2), backbone(pixels, stop=2))
    assert not torch.equal(backbone(pixels, stop=3), backbone(pixels, stop=3))
    freezing.release()


def test_within_what_is_computed_again_in_backward_as_a_whole_nothing_begins() -> None:
    """It would be computed again from zeros."""
    backbone, pixels = own_backbone(CheckpointedTogether(), FOUR, 16), images(16)
    assert backbone.starts == (0, 1, 4)
    assert (
        "cannot begin at mid: TrainingError: the network cannot begin at mid in training: it lies"
        in backbone.cannot_begin
    )
    stored = backbone.train()(pixels, stop=1).detach()
    backbone(stored, start=1).sum().backward()  # what is stored goes into it as it is


class Gives(nn.Module):
    """Some output of the last layer's maps."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.conv, self.give = nn.Conv2d(3, 6, 3, 2, 1), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.conv(x))


@pytest.mark.parametrize(
    ("give", "layout", "features"),
    [
        (lambda maps: maps, None, lambda maps: maps.mean((2, 3))),
        (lambda maps: maps.permute(0, 2, 3, 1), None, lambda maps: maps.mean((2, 3))),
        (lambda maps: maps[..., :3], "channels_first", lambda maps: maps[..., :3].mean((2, 3))),
        (lambda maps: maps.flatten(2).transpose(1, 2), "tokens", lambda maps: maps.mean((2, 3))),
        (lambda maps: maps.flatten(2).transpose(1, 2), "class_token", lambda maps: maps[:, :, 0, 0]),
        (lambda maps: maps.mean((2, 3)), None, lambda maps: maps.mean((2, 3))),
    ],
)
def test_features_are_found_in_maps_and_tokens(give: Any, layout: str | None, features: Any) -> None:
    network = Gives(give)
    backbone = own_backbone(network, ["conv"], 16, layout=layout).eval()
    assert backbone.out_features == 6
    normalised = backbone._normalised(images(16))
    torch.testing.assert_close(backbone(images(16)), features(network.conv(normalised)))


@pytest.mark.parametrize(
    ("give", "shape"),
    [(lambda maps: maps[..., :3], r"\[2, 6, 8, 3\]"), (lambda maps: maps.flatten(2), r"\[2, 6, 64\]")],
)
def test_a_layout_that_cannot_be_told_is_asked_for(give: Any, shape: str) -> None:
    message = rf"model\.layout: is missing, and {shape} of Gives does not tell it; one of channels_first, "
    with pytest.raises(ConfigError, match=message):
        own_backbone(Gives(give), ["conv"], 16)


@pytest.mark.slow
def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.layout=tokens: does not fit \[2, 6\] of Gives; leave it out"):
        own_backbone(Gives(lambda maps: maps.mean((2, 3))), ["conv"], 16, layout="tokens")
    with pytest.raises(
        ConfigError, match=r"layout=class_token: does not fit .*; choose channels_first or channels_last"
    ):
        own_backbone(Gives(lambda maps: maps), ["conv"], 16, layout="class_token")


def test_class_scores_are_left_out_and_an_embedding_is_not() -> None:
    network = models.efficientnet_b0(weights=None)
    backbone = own_backbone(network, ["features", "classifier"], 32)
    assert backbone.out_features == 1280
    assert backbone.said == ("EfficientNet's classifier.1 (1,280 features to 1,000 class scores) is left out",)
    assert not any(name.startswith("classifier") for name in backbone.state_dict())
    assert list(backbone.blocks) == ["features"]
    assert backbone.blocks["features"][1:] == ("avgpool", "classifier")

    def ends_in(name: str, outputs: int) -> nn.Module:
        made = nn.Sequential()
        made.add_module("conv", nn.Conv2d(3, 4, 3))
        made.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        made.add_module(name, nn.Linear(4, outputs))
        return made

    for name, outputs, features, said in (
        ("classifier", 7, 4, ("Sequential's classifier (4 features to 7 class scores) is left out",)),
        ("last", 1000, 4, ("Sequential's last (4 features to 1,000 class scores) is left out",)),
        ("embedding", 16, 16, ()),
        ("fc", 16, 16, ("Sequential's fc (4 features to 16) is taken for features; if it gives class scores, put "
                        "nn.Identity() in its place",)),
    ):  # fmt: skip
        backbone = own_backbone(ends_in(name, outputs), ["conv", "pool", name], 16)
        assert (backbone.out_features, backbone.said) == (features, said)


def test_networks_with_the_same_weights_are_told_apart_by_what_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = """
from torch import nn

class Limited(nn.Module):
    def __init__(self, limit):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.act = lambda maps: maps.clamp(0, limit)

    def forward(self, images):
        return self.act(self.conv(images))
"""

    def key(limit: float) -> str:
        settings = own.Settings(network={"_target_": "limited_net.Limited", "limit": limit}, blocks=["conv"])
        return settings.build(16).network_key

    (tmp_path / "limited_net.py").write_text(code)
    keys = [key(6.0), key(1.5)]
    assert keys == [key(6.0), key(1.5)]
    (tmp_path / "limited_net.py").write_text(code.replace("clamp(0,", "clamp(-1,"))
    __import__("linecache").clearcache()
    keys.append(key(6.0))
    assert len(set(keys)) == 3


class Glue(nn.Module):
    """Two layers, and between them what its code does of its own."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), between

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.a(images)
        if self.between == "dropout":
            hidden = F.dropout(hidden, 0.5, self.training)
        if self.between == "noise":
            hidden = hidden + torch.randn_like(hidden)
        if self.between == "mean":
            hidden = hidden - hidden.mean(0)
        made = self.b(hidden)
        return made + images.mean() if self.between == "skip" and self.training else made


@pytest.mark.parametrize(
    ("between", "starts", "reason"),
    [
        ("nothing", (0, 1, 2), ""),
        ("dropout", (0, 2), "cannot begin at b: the code before it does otherwise in training"),
        ("noise", (0,), "cannot be used: an image has other features each time"),
        ("mean", (0,), "cannot be used: an image's features depend on the other images of its batch"),
        ("skip", (0, 2), "cannot begin at b: the code of the network does otherwise in training"),
    ],
)
def test_what_cannot_be_kept_of_an_image_is_not_kept(between: str, starts: tuple[int, ...], reason: str) -> None:
    backbone = own_backbone(Glue(between), ["a", "b"], 16)
    backbone.train()
    assert (backbone.starts, backbone.cannot_begin) == (starts, reason)
    assert backbone(torch.zeros(2, 3, 16, 16, dtype=torch.uint8)).shape == (2, 6)


def test_outputs_that_are_kept_are_those_of_eval_mode_and_draw_nothing_from_the_run() -> None:
    backbone = own_backbone(Glue("dropout"), ["a", "b"], 16).train()
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    before = torch.get_rng_state()
    kept = outputs_at(backbone, images, [2], precision=nullcontext)[2]
    assert torch.equal(torch.get_rng_state(), before)
    assert backbone.training
    assert backbone._network[0].training
    with torch.no_grad():
        torch.testing.assert_close(kept, backbone.eval()(images))


def test_a_block_without_layers_is_refused() -> None:
    blocks: Any = {"x": ["a"], "y": None}
    with pytest.raises(ConfigError, match=r"model\.blocks\.y: is empty; list its layers, or leave it out"):
        own_backbone(Glue("nothing"), blocks, 16)


def test_layers_called_by_numbers_and_blocks_of_one_layer_are_understood() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3))
    assert own_backbone(network, [0, 1], 16).blocks == {"0": ("0",), "1": ("1",)}  # type: ignore[list-item]
    assert own_backbone(Glue("nothing"), {"x": "a", "y": "b"}, 16).blocks == {"x": ("a",), "y": ("b",)}
