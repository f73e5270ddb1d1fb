"""MixUp and CutMix: training images of a batch mixed with each other, and their classes with them."""

from dataclasses import replace

import torch
from torchvision.transforms import v2

from stagetune.data.datamodule import Batch


class Mixing:
    """Mixes each image of a batch with the one before it; with both kinds, each batch by one of them at random.

    Random numbers are torch's, which are seeded for each batch.

    Args:
        mixup: alpha of the Beta distribution of MixUp's shares (Zhang et al. 2018, section 2); 0 for none.
        cutmix: that of CutMix's areas (Yun et al. 2019, section 3.1); 0 for none.
        classes: how many there are.
    """

    def __init__(self, mixup: float, cutmix: float, classes: int) -> None:
        kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
        with torch.device("cpu"):  # also where a plan is made, without memory
            chosen = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
        self._mix = v2.RandomChoice(chosen)

    def __call__(self, batch: Batch) -> Batch:
        """The batch with mixed images, float [n, 3, size, size] from 0 to 255, and shares of classes [n, classes]."""
        inputs, target = self._mix(batch.inputs.float(), batch.target)
        return replace(batch, inputs=inputs, target=target)
