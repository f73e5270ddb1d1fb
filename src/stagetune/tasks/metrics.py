"""Metrics of the user's own, measured beside ours in validation and test."""

import warnings
from collections.abc import Collection, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from stagetune.errors import ConfigError
from stagetune.targets import build

Part = Literal["val", "test"]


def own_metrics(settings: Mapping[str, Mapping[str, Any]], **supplied: Any) -> dict[str, Metric]:
    """The metrics that `+metrics.NAME` names.

    Args:
        settings: by name, of each its `_target_` and arguments, which `check_target` has looked at.
        supplied: such as `num_classes`, given to those that ask for it and are not told it.

    Returns:
        One for each name.

    Raises:
        ConfigError: for those that cannot be built, or are no metric of torchmetrics.
    """
    problems = []
    found: dict[str, Metric] = {}
    for name, given in settings.items():
        metric = build(given, **supplied)()
        if isinstance(metric, Metric):
            found[name] = metric
        else:
            problems.append(
                f"metrics.{name}._target_={given['_target_']}: gives {type(metric).__name__}, which is no "
                "torchmetrics.Metric; derive it from that"
            )
    if problems:
        raise ConfigError(problems)
    return found


class OwnMetrics:
    """Of each metric one for validation and one for the test; what they are given is gathered from all processes.

    It is no module: what a metric may have of layers and parameters is neither trained nor in checkpoints.

    Args:
        metrics: by name.
        ours: names that the task measures itself.
        example: predictions and targets as a small part would have them, on which each metric is tried.
        given: what these are, in words.

    Raises:
        ConfigError: for names of ours, and metrics that cannot take the example or give no single number for it.
    """

    def __init__(
        self, metrics: Mapping[str, Metric], *, ours: Collection[str], example: tuple[Tensor, Tensor], given: str
    ) -> None:
        problems = [
            f"metrics.{name}: val/{name} is measured already; give it another name"
            for name in metrics
            if name in ours
        ]
        for name, metric in metrics.items():
            for one in metric.modules():  # a wrapper has more of them within
                if isinstance(one, Metric):
                    one.distributed_available_fn = _is_spread
            if problem := _problem(name, metric.clone(), example, given):
                problems.append(problem)
        if problems:
            raise ConfigError(problems)
        self._of = {
            part: {name: metric.clone() for name, metric in metrics.items()} for part in ("val", "test")
        }  # fmt: skip

    def update(self, part: Part, preds: Tensor, target: Tensor) -> None:
        for metric in self._of[part].values():
            metric.to(preds.device).update(preds, target)

    def compute(self, part: Part) -> dict[str, Tensor]:
        """Their values as they are logged, val/NAME or test/NAME; they begin anew."""
        values = {f"{part}/{name}": metric.compute() for name, metric in self._of[part].items()}
        for metric in self._of[part].values():
            metric.reset()
        return values


def _is_spread() -> bool:
    """Whether each process has images of its own, for torchmetrics: all have those of all, and count them once."""
    return False


def _problem(name: str, metric: Metric, example: tuple[Tensor, Tensor], given: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # a few images say little
            metric.update(*example)
            value: Any = metric.compute()
    except Exception as error:  # somebody's code
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"metrics.{name}: cannot take {given}: {reason}"
    if isinstance(value, Tensor | float | int) and torch.as_tensor(value).numel() == 1:
        return None
    kind = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    return f"metrics.{name}: gives {kind}, which is no single number to log as val/{name}; choose one that gives it"
