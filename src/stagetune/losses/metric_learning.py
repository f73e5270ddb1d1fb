"""Losses of pytorch-metric-learning (extra `metric`) under our call: embeddings [n, d] and identities [n]."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from stagetune.errors import ConfigError

# ours: class, whether it has a weight per identity, and its arguments by the names of our settings
LOSSES: dict[str, tuple[str, bool, dict[str, str]]] = {
    "supcon": ("SupConLoss", False, {"temperature": "temperature"}),
    "nt_xent": ("NTXentLoss", False, {"temperature": "temperature"}),
    "multi_similarity": ("MultiSimilarityLoss", False, {}),
    "arcface": ("ArcFaceLoss", True, {"margin": "margin", "scale": "scale"}),
    "proxy_anchor": ("ProxyAnchorLoss", True, {"margin": "margin", "scale": "alpha"}),
}


class MetricLearningLoss(nn.Module):
    """One of `LOSSES`. Those with a weight per identity train it with the head.

    Raises `ConfigError` where the package is not installed.
    """

    def __init__(self, name: str, *, identities: int, dimensions: int, **settings: Any) -> None:
        super().__init__()
        try:
            losses = import_module("pytorch_metric_learning.losses")
        except ImportError as error:
            raise ConfigError(
                [f"loss={name}: needs pytorch-metric-learning; pip install 'stagetune[metric]'"]
            ) from error
        kind, has_proxies, arguments = LOSSES[name]
        chosen = {theirs: settings[ours] for ours, theirs in arguments.items()}
        if has_proxies:
            chosen |= {"num_classes": identities, "embedding_size": dimensions}
        self.loss = getattr(losses, kind)(**chosen)

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        with torch.autocast(embeddings.device.type, enabled=False):
            cost: Tensor = self.loss(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), identity)
        return cost
