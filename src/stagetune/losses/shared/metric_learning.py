"""Losses of pytorch-metric-learning (extra `metric`) under our call: embeddings [n, d] and identities [n]."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from stagetune.errors import ConfigError


class MetricLearningLoss(nn.Module):
    """One of them.

    Args:
        kind: the name of its class there.
        arguments: of that class. A weight per identity, where it has one, is trained with the head.

    Raises:
        ConfigError: where the package is not installed.
    """

    def __init__(self, kind: str, **arguments: Any) -> None:
        super().__init__()
        try:
            losses = import_module("pytorch_metric_learning.losses")
        except ImportError as error:
            raise ConfigError(
                [f"loss: {kind} needs pytorch-metric-learning; pip install 'stagetune[metric]'"]
            ) from error
        self.loss = getattr(losses, kind)(**arguments)

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            cost: Tensor = self.loss(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), identity)
        return cost
