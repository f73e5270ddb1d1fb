"""A torchvision ResNet or VGG as named blocks that can be run from any block on."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RESNET_BLOCKS: Mapping[str, Sequence[str]] = {
    "stem": ("conv1", "bn1", "relu", "maxpool"),
    "layer1": ("layer1",),
    "layer2": ("layer2",),
    "layer3": ("layer3",),
    "layer4": ("layer4",),
}


class Backbone(nn.Module):
    """Images to pooled features [n, out_features], as blocks in forward order.

    `layers` keep their own names, so that parameters are called as in the network they come from; `blocks`
    says which layers make up each block. The outputs of the blocks in `pooled`, averaged over their pixels, are
    side by side the features. Images are uint8 and normalised here, as the weights want it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        blocks: Mapping[str, Sequence[str]],
        *,
        pooled: Sequence[str] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.blocks = {block: tuple(names) for block, names in blocks.items()}
        self.normal = (tuple(mean), tuple(std))  # of images, as the weights want them
        self.pooled = tuple(pooled or list(self.blocks)[-1:])
        # the depths at which it can begin: not after a block whose output is wanted
        self.starts = (*range(list(self.blocks).index(self.pooled[0]) + 1), len(self.blocks))
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.out_features = self._width()

    def forward(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run blocks `start` to `stop` (exclusive): `start=0` takes images, `start=k` the output of block k.

        Past the last block it gives the features: [n, out_features].
        """
        stop = len(self.blocks) if stop is None else stop
        hidden = inputs
        if start == 0:
            hidden = (hidden.float() / 255 - self.mean) / self.std
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        features = []
        for block, names in list(self.blocks.items())[start:stop]:
            for name in names:
                hidden = self.get_submodule(name)(hidden)
            if block in self.pooled and stop == len(self.blocks):
                features.append(F.adaptive_avg_pool2d(hidden, 1).flatten(1))
        return torch.cat(features, dim=1) if features else hidden

    def extra_repr(self) -> str:
        return f"pooled={self.pooled}"  # also tells cached features apart

    def _width(self) -> int:
        """The channels of the blocks in `pooled`: of each, those of the last convolution up to its end."""
        width, widths = 0, {}
        for block, names in self.blocks.items():
            for layer in (inner for name in names for inner in self.get_submodule(name).modules()):
                width = layer.out_channels if isinstance(layer, nn.Conv2d) else width
            widths[block] = width
        return sum(widths[block] for block in self.pooled)


def build_backbone(
    arch: str = "resnet50", *, stem: str = "imagenet", pooled: Sequence[str] | None = None
) -> Backbone:
    """A randomly initialised torchvision network without its classifier, in channels_last.

    `stem="small_images"` has the 3x3 stride-1 convolution without max-pool that is usual for pictures of
    about 32 px (He et al. 2015, section 4.2); a VGG has one stem only. `pooled` is by default the last block.
    """
    backbone = _vgg(arch, pooled) if arch.startswith("vgg") else _resnet(arch, stem, pooled)
    return backbone.to(memory_format=torch.channels_last)


def _resnet(arch: str, stem: str, pooled: Sequence[str] | None) -> Backbone:
    # each residual branch starts at zero, which makes training from scratch faster (Goyal et al. 2017, section 5.1)
    resnet = models.get_model(arch, weights=None, zero_init_residual=True)
    layers = OrderedDict(resnet.named_children())
    layers.pop("fc")
    layers.pop("avgpool")
    blocks = dict(RESNET_BLOCKS)
    if stem == "small_images":
        layers["conv1"] = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(layers["conv1"].weight, mode="fan_out", nonlinearity="relu")
        layers.pop("maxpool")
        blocks["stem"] = ("conv1", "bn1", "relu")
    return Backbone(layers, blocks, pooled=pooled)


def _vgg(arch: str, pooled: Sequence[str] | None) -> Backbone:
    """Split after each max-pool into five blocks, called as a ResNet's, so that the same schedules fit."""
    layers = models.get_model(arch, weights=None).features
    blocks: dict[str, list[str]] = {name: [] for name in RESNET_BLOCKS}
    names = iter(blocks)
    block = next(names)
    for i, layer in enumerate(layers):
        blocks[block].append(f"features.{i}")
        if isinstance(layer, nn.MaxPool2d):
            block = next(names, block)
    return Backbone({"features": layers}, blocks, pooled=pooled)
