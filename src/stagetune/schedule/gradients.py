"""What a stage does to gradients and rates before each optimizer step: L2-SP, and rates by relative gradient norm."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from stagetune.schedule.model import BACKBONE
from stagetune.schedule.plan import Plan


class Anchor:
    """The backbone's weights as training began, for the L2-SP penalty towards them.

    Li, Grandvalet & Davoine 2018, Explicit inductive bias for transfer learning with convolutional networks,
    equation 1. Kept in checkpoints, since a run that goes on has others.

    Args:
        parameters: all parameters of the module by the plan's names.
        plan: whose stages say which of them are ever pulled.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], plan: Plan) -> None:
        self._parameters = parameters
        pulled = {name for stage in plan.stages if stage.l2_sp for name in stage.open if name.startswith(BACKBONE)}
        self.weights: dict[str, Tensor] = {name: parameters[name].detach().clone() for name in sorted(pulled)}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take up those of a checkpoint; what it does not have stays as it is now."""
        for name in self.weights.keys() & weights.keys():
            self.weights[name] = weights[name].to(self._parameters[name], copy=True)

    @torch.no_grad()
    def pull(self, strength: float) -> None:
        """Add the gradient of `strength / 2` times the squared distance, for what has a gradient."""
        for name, start in self.weights.items():
            parameter = self._parameters[name]
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=strength)


class RelativeGradientNorms:
    """A factor on the rate of each tensor: its gradient's norm over that of its weights, as a share of the largest.

    Lee et al. 2023, Surgical fine-tuning improves adaptation to distribution shifts, section 4 (Auto-RGN). It is
    measured at the first optimizer step of each epoch, on the gradient that is about to be applied. The largest is
    that of tensors with at least two dimensions, as there: biases and norms may lie near 0 and would outdo all
    others; they get at most 1, as does what is 0 itself.
    """

    def __init__(self) -> None:
        self.factors: dict[str, float] = {}  # by the plan's group
        self._epoch: int | None = None  # in which they were measured

    def state_dict(self) -> dict[str, Any]:
        return {"factors": self.factors, "epoch": self._epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.factors, self._epoch = dict(state["factors"]), state["epoch"]

    def begin(self) -> None:
        """Forget the stage before."""
        self.factors, self._epoch = {}, None

    def of(self, group: str) -> float:
        return self.factors.get(group, 1.0)

    @torch.no_grad()
    def measure(self, optimizer: Optimizer, epoch: int) -> bool:
        """Measure anew where this epoch has not; whether it did. Not on a step whose gradients overflowed."""
        if self._epoch == epoch:
            return False
        open_ = [
            (group["plan_group"], parameter)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        norms = [(name, p.ndim, float(p.grad.norm()), float(p.norm())) for name, p in open_ if p.grad is not None]
        ratios = {name: gradient / weight for name, _, gradient, weight in norms if weight > 0}
        largest = max((ratios.get(name, 0.0) for name, ndim, *_ in norms if ndim > 1), default=0.0)
        if not all(math.isfinite(gradient) for _, _, gradient, _ in norms) or not largest > 0:
            return False
        self.factors = {name: min(ratios.get(name, math.inf) / largest, 1.0) for name, *_ in norms}
        self._epoch = epoch
        return True
