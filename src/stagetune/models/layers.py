"""A network that is a chain of layers, as blocks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stagetune.models.backbone import IMAGENET, Backbone, Normal


class Layers(Backbone):
    """Layers that take each other's output, with the pixels of the last map averaged into features.

    Args:
        layers: by the names of the network that they come from, which its parameters keep.
        blocks: each block with the names of its layers, in forward order.
        pooled: blocks whose outputs, averaged over their pixels, are side by side the features; by default the last.
        normal: mean and std of images.
        image_size: pixels per side, on which the number of features is found out.
        network_key: see `Backbone`.

    Raises:
        RuntimeError: torch's, for images that the layers cannot take.
    """

    cannot_begin = ""
    said: Sequence[str] = ()

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        blocks: Mapping[str, Sequence[str]],
        *,
        pooled: Sequence[str] | None = None,
        normal: Normal = IMAGENET,
        image_size: int = 224,
        network_key: str = "",
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.blocks = {block: tuple(names) for block, names in blocks.items()}
        self.pooled = tuple(pooled or list(self.blocks)[-1:])
        # not after a block whose output is wanted
        self.starts = (*range(list(self.blocks).index(self.pooled[0]) + 1), len(self.blocks))
        self.normal, self.network_key = normal, network_key
        if len(self.pooled) > 1:
            self.cannot_begin = (
                f"cannot begin after {self.pooled[0]}, whose output is among the features (model.pooled)"
            )
        self._normalise_by(normal)
        self.relearn(image_size)

    def forward(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        stop = len(self.blocks) if stop is None else stop
        hidden = inputs
        if start == 0 and stop > 0:
            hidden = self._normalised(hidden).contiguous(memory_format=torch.channels_last)
        features = []
        for block, names in list(self.blocks.items())[start:stop]:
            for name in names:
                hidden = self.get_submodule(name)(hidden)
            if block in self.pooled and stop == len(self.blocks):
                features.append(hidden.mean(dim=(2, 3)))
        return torch.cat(features, dim=1) if features else hidden

    def relearn(self, image_size: int) -> None:
        self.out_features = self._width(image_size)

    def extra_repr(self) -> str:
        return f"pooled={self.pooled}"  # also tells cached features apart

    def _width(self, size: int) -> int:
        """The number of features, by the shapes alone."""
        training = self.training
        registers = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        shapes = {name: torch.empty_like(value, device="meta") for name, value in registers.items()}
        images = torch.empty(2, 3, size, size, dtype=torch.uint8, device="meta")
        with torch.no_grad():
            features: Tensor = functional_call(self.eval(), shapes, (images,))
        self.train(training)
        return features.shape[1]
