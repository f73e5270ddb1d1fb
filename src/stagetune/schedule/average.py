"""An exponential moving average of the open parameters (EMA), by torch.optim.swa_utils."""

from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Average:
    """Averages of what is open, in step with torch's `AveragedModel`: the first update copies the weights.

    What is frozen has one value only, so that its average is itself. Buffers are not averaged.

    Args:
        parameters: all parameters of the module by name.
        decay: the share of the average that each step keeps, such as 0.999.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._update: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.values: dict[str, Tensor] = {}  # of what is open; the weights, while they are applied
        self._updates = 0
        self._step = 0  # the optimizer step of the latest update
        self._is_applied = False

    def open_only(self, names: Set[str], step: int) -> None:
        """Average these from the optimizer step on; those of them that were averaged before go on.

        What closes stays at its average, as validation has seen it.
        """
        self._step = step
        with torch.no_grad():
            for name in self.values.keys() - names:
                self._parameters[name].copy_(self.values[name])
        self.values = {
            name: self.values[name] if name in self.values else self._parameters[name].detach().clone()
            for name in self._parameters
            if name in names
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights in after an optimizer step; to be called after each batch, which may be none."""
        if step == self._step:
            return
        self._step = step
        averages, weights = list(self.values.values()), [self._parameters[name].detach() for name in self.values]
        if self._updates == 0:
            torch._foreach_copy_(averages, weights)
        else:
            self._update(averages, weights, self._updates)
        self._updates += 1

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again from the weights as they are now."""
        self._updates, self._is_applied = 0, False
        for name, average in self.values.items():
            average.copy_(self._parameters[name])

    def apply(self) -> None:
        """Let the module have the averages, until `withdraw`."""
        if not self._is_applied:
            self._swap()

    def withdraw(self) -> None:
        """Let the module have the weights that are trained."""
        if self._is_applied:
            self._swap()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averages within, and afterwards what it had before."""
        before = self._is_applied
        self.apply()
        try:
            yield
        finally:
            if not before:
                self.withdraw()

    def state_dict(self) -> dict[str, Any]:
        """The weights that are trained, and the averages; bit for bit, whether they are applied or not."""
        weights = {name: self._parameters[name].detach() for name in self.values}
        pair = (self.values, weights) if self._is_applied else (weights, self.values)
        return {"weights": pair[0], "averages": pair[1], "updates": self._updates}

    def put_into(self, state: dict[str, Any], module: nn.Module) -> None:
        """Let a module's state dict have the averages, by whatever names it has the parameters."""
        averages = {id(self._parameters[name]): value for name, value in self.state_dict()["averages"].items()}
        for key, value in module.named_parameters(remove_duplicate=False):
            if key in state and id(value) in averages:
                state[key] = averages[id(value)]

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the weights and the averages of a checkpoint."""
        for name, weight in state["weights"].items():
            self._parameters[name].copy_(weight)
        self.values = {
            name: average.to(self._parameters[name], copy=True) for name, average in state["averages"].items()
        }
        self._updates, self._is_applied = state["updates"], False

    @torch.no_grad()
    def _swap(self) -> None:
        for name, other in self.values.items():
            parameter = self._parameters[name]
            weight = parameter.detach().clone()
            parameter.copy_(other)  # in place: optimizer, replicas and compiled code hold this tensor
            other.copy_(weight)
        self._is_applied = not self._is_applied


def check_decay(decay: float, steps: int) -> None:
    """Warn where an average looks back over more steps than training has."""
    span = round(1 / (1 - decay))
    if steps < span:
        rank_zero_warn(
            f"ema={decay} averages about {span} steps, and the schedule has {steps}: "
            "validation will see weights that have hardly moved; choose a smaller one"
        )
