"""Channels of a backbone left out: which they are, that nothing else changes, and what cannot be pruned."""

import json
import sys
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from stagetune.config.compose import compose
from stagetune.errors import ConfigError, WeightsError
from stagetune.models.backbone import Backbone
from stagetune.models.cut import cut, rebuild
from stagetune.models.own import own_backbone
from stagetune.models.prune import prune

SIZE = 32
FAMILIES = [
    ["model=mobilenet_v3_small"],  # depthwise, squeeze-and-excite
    ["model=regnet_y_400mf"],  # grouped
    ["model=densenet121"],  # concatenated
    ["model=timm", "model.arch=vit_tiny_patch16_224"],  # LayerNorm and attention
]


def built(words: Sequence[str], seed: int = 0) -> Backbone:
    """A backbone whose norms are not those of a fresh one, so that a wrong channel shows."""
    torch.manual_seed(seed)
    backbone = compose([*words, f"data.image_size={SIZE}"]).model.build(SIZE)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for register, low in ((layer.weight, 0.5), (layer.bias, -0.5), (layer.running_var, 0.5)):
                nn.init.uniform_(register, low, low + 1)
            nn.init.normal_(layer.running_mean)
    return backbone.eval()


def pixels(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8)


def hushed(backbone: Backbone, removed: dict[str, dict[str, list[int]]], images: Tensor) -> Tensor:
    """The features where the outputs of layers are set to 0 as they pass, for the channels that were removed."""

    def hush(channels: list[int]) -> Any:
        def hook(layer: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
            outputs = outputs.clone()
            (outputs if outputs.ndim == 4 and not isinstance(layer, nn.Linear) else outputs.movedim(-1, 1))[
                :, channels
            ] = 0
            return outputs

        return hook

    layers = dict(backbone.named_modules())
    hooks = [
        layers[name].register_forward_hook(hush(sides["outputs"]))
        for name, sides in removed.items()
        if "outputs" in sides
    ]
    with torch.no_grad():
        features: Tensor = backbone(images)
    for hook in hooks:
        hook.remove()
    return features


@pytest.mark.slow
@pytest.mark.parametrize("words", FAMILIES)
def test_a_pruned_network_is_the_whole_one_with_these_channels_at_0_and_is_built_again_from_plain_data(
    words: list[str],
) -> None:
    backbone, images = built(words), pixels()
    whole, size = deepcopy(backbone), sum(p.numel() for p in backbone.parameters())
    found = prune(backbone, 0.3, SIZE)
    assert sum(p.numel() for p in backbone.parameters()) < 0.85 * size
    with torch.no_grad():
        features = backbone(images)
    expected = hushed(whole, found.removed, images)
    assert features.shape == expected.shape
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert any("its outputs are the features" in reasons for reasons in found.kept_for.values())

    again = built(words, seed=1)
    rebuild(again, json.loads(json.dumps([{"removed": found.removed}])), SIZE)
    again.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(again(images), features)
        for depth in again.starts[1:-1]:  # where it can begin was learnt on its new shapes
            torch.testing.assert_close(again(again(images, stop=depth), start=depth), features)
    assert again.starts == backbone.starts


class Chain(nn.Module):
    """Two convolutions; `between` is the code of the network between them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.between = between

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.between(self.first(images)))


def chained(between: Callable[[Tensor], Tensor] = torch.relu) -> Backbone:
    torch.manual_seed(0)
    return own_backbone(Chain(between), ["first", "second"], SIZE)


def test_the_channels_of_least_magnitude_go_frozen_or_not() -> None:
    backbone = chained()
    layers = dict(backbone.named_modules())
    with torch.no_grad():
        for channel in (1, 4):
            layers["first"].weight[channel] *= 1e-3  # type: ignore[operator]
            layers["second"].weight[:, channel] *= 1e-3  # type: ignore[operator, index]
    first = layers["first"].weight.detach().numpy().copy()  # type: ignore[operator]
    backbone.requires_grad_(False)
    layers["second"].bias.requires_grad_(True)  # type: ignore[union-attr]
    found = prune(backbone, 0.25, SIZE)
    assert found.removed == {"first": {"outputs": [1, 4]}, "second": {"inputs": [1, 4]}}
    np.testing.assert_array_equal(layers["first"].weight.numpy(), np.delete(first, [1, 4], axis=0))  # type: ignore[operator]
    assert [name for name, p in backbone.named_parameters() if p.requires_grad] == ["second.bias"]
    assert backbone.out_features == 6


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (lambda x: x.roll(1, dims=1), "its own code does with channels what its layers do not show, it gives other"),
        (lambda x: x * torch.ones(8).view(1, 8, 1, 1), "its own code does with channels what its layers do not show"),
    ],
    ids=["mixes channels", "counts on eight"],
)
def test_a_network_whose_code_counts_on_its_channels_is_refused(
    between: Callable[[Tensor], Tensor], said: str
) -> None:
    with pytest.raises(ConfigError, match=f"this network cannot be pruned: {said}"):
        prune(chained(between), 0.25, SIZE)


def test_a_network_of_which_nothing_can_go_is_refused_with_the_reasons() -> None:
    norm = nn.GroupNorm(2, 8)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.Conv2d(8, 6, 3))
    backbone = own_backbone(network, ["0", "1", "2"], SIZE)
    with pytest.raises(ConfigError) as caught:
        prune(backbone, 0.5, SIZE)
    assert caught.value.problems == [
        "model.prune.ratio=0.5: removes nothing (its outputs are the features, a GroupNorm normalises its "
        "outputs together); leave it out, or choose another model"
    ]


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(ConfigError, match=r"needs torch-pruning; pip install 'stagetune\[prune\]'"):
        prune(chained(), 0.5, SIZE)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"ratio": 0.3}, "its pruning history has an entry that does not say what was removed"),
        ({"removed": {"third": {"outputs": [0]}}}, "pruning of third: there is no such layer"),
        ({"removed": {"": {"outputs": [0]}}}, "pruning of : a Whole cannot be pruned"),
        ({"removed": {"first": [1, 2]}}, "pruning of first: expects outputs and inputs, got [1, 2]"),
        ({"removed": {"first": {"weights": [1]}}}, "pruning of first: expects outputs and inputs, got"),
        ({"removed": {"first": {"outputs": [8]}}}, "pruning of first, outputs: expects some of 8 channels, got [8]"),
        ({"removed": {"first": {"outputs": [-1]}}}, "pruning of first, outputs: expects some of 8 channels"),
        ({"removed": {"first": {"outputs": [1, 1]}}}, "pruning of first, outputs: expects some of 8 channels"),
        ({"removed": {"first": {"outputs": "12"}}}, "pruning of first, outputs: expects some of 8 channels"),
        ({"removed": {"first": {"outputs": list(range(8))}}}, "would remove all 8 channels"),
    ],
)
def test_a_history_that_is_not_of_the_network_is_refused(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(WeightsError) as caught:
        rebuild(chained(), [entry], SIZE)
    assert said in str(caught.value)


def test_a_grouped_convolution_loses_whole_groups_or_as_much_of_each() -> None:
    images = torch.randn(2, 8, 5, 5)
    layer = nn.Conv2d(8, 12, 3, groups=4)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()  # type: ignore[union-attr]
    # of group 0 input 0 and output 1, of group 1 input 3 and output 3, of group 2 likewise, all of group 3
    removed = {"outputs": [1, 3, 8, 9, 10, 11], "inputs": [0, 3, 4, 6, 7]}
    network = nn.Sequential(layer)
    cut(network, {"0": removed})
    left, read = [c for c in range(12) if c not in removed["outputs"]], [1, 2, 5]
    expected = torch.stack(
        [
            nn.functional.conv2d(images[:, [channel // 3 * 2 + k]], weight[[channel]][:, [k]])[:, 0] + bias[channel]
            for channel in left
            for k in [read[channel // 3] % 2]
        ],
        dim=1,
    )
    torch.testing.assert_close(network(images[:, read]), expected)
    with pytest.raises(WeightsError, match="leaves its 3 groups uneven"):
        cut(network, {"0": {"outputs": [0]}})


def nested(depth: int) -> Any:
    """A list of 2 ** depth numbers, which takes no room in memory, nor in a file."""
    found: Any = [0]
    for _ in range(depth):
        found = [found, found]
    return found


@pytest.mark.parametrize(
    ("history", "said"),
    [
        (5, "its pruning history is no list: 5"),
        ("abc", "its pruning history is no list: 'abc'"),
        (nested(60), "its pruning history has an entry that does not say what was removed: [[[[[["),
        ([{"removed": {"first": {"outputs": nested(60)}}}], "first, outputs: expects some of 8 channels, got [[[[[["),
        ([{"removed": {"first": nested(60)}}], "pruning of first: expects outputs and inputs, got [[[[[["),
        ([{"removed": {5: {"outputs": [0]}}}], "an entry that does not say what was removed"),
        ([{"removed": {}}] * 9, "does not say what was removed"),  # thousands of them would take minutes
        ([{"removed": {"first": {"outputs": []}}}] * 9, "pruning of first: removes nothing"),
        ([{"removed": {"first": {"outputs": [0]}}}], "history is not one of this network: 1 problem in the"),
    ],
)
def test_a_history_from_elsewhere_costs_neither_time_nor_memory(history: Any, said: str) -> None:
    with pytest.raises(WeightsError) as caught:
        rebuild(chained(), history, SIZE)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_layers_stay_in_the_memory_format_in_which_their_gradients_are() -> None:
    for layer in (nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 3)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            network = nn.Sequential(deepcopy(layer)).to(memory_format=memory_format)
            expected = nn.Conv2d(6, 6, layer.kernel_size).to(memory_format=memory_format).weight.stride()
            cut(network, {"0": {"inputs": [0, 5]}})
            assert network[0].weight.stride() == expected
