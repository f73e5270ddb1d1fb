"""The focal loss as a module: torch's cross-entropy, in which what is told right already counts less."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FocalLoss(nn.CrossEntropyLoss):
    """A mean as that of torch's `CrossEntropyLoss`, which it is with `gamma` 0.

    Args:
        gamma: how much less an image costs as its class becomes sure: (1 - p) ** gamma times its cross-entropy.
        arguments: weight [classes] and label_smoothing, as in `CrossEntropyLoss`.
    """

    def __init__(self, *arguments: Any, gamma: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.gamma = gamma

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The mean over scores [n, classes] and classes [n] (int64), or shares of them [n, classes]."""
        scores = input.to(torch.promote_types(input.dtype, torch.float32))
        log_p = F.log_softmax(scores, dim=1)
        # 1 - p, exact near 0, where a power below 1 has no gradient
        missing = (-log_p.expm1()).clamp_min(torch.finfo(log_p.dtype).tiny)
        classes, is_hard = scores.shape[1], target.ndim == 1
        shares = F.one_hot(target, classes).to(log_p) if is_hard else target.to(log_p)
        smooth = shares * (1 - self.label_smoothing) + self.label_smoothing / classes
        weight = scores.new_ones(classes) if self.weight is None else self.weight.to(log_p)
        cost = -(smooth * weight * missing**self.gamma * log_p).sum()
        return cost / (weight[target].sum() if is_hard else len(target))
