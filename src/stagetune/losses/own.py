"""A loss of a person's own, or of a library, by `loss._target_`."""

import warnings
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stagetune.config.schema import Config
from stagetune.config.settings import LossSettings
from stagetune.errors import ConfigError
from stagetune.targets import build, check_target, find

if TYPE_CHECKING:
    from torch import Tensor, nn

SUPPLIED = ("num_classes", "embedding_size")  # arguments that it is given where it asks for them


@dataclass
class Settings(LossSettings):
    """`loss._target_=package.Loss`: called with outputs [n, d] and classes or identities [n].

    In a siamese task its `of_pairs(distance, is_same)`, where it has that, is called with pairs that a table gives.
    """

    name: str = "own"
    target: dict[str, Any] = field(default_factory=dict)

    takes_pairs = None

    def target_problems(self, config: Config) -> list[str]:
        problems = check_target("loss", self.target, SUPPLIED)
        if not problems and not config.data.has_identities and not hasattr(find(self.target["_target_"]), "of_pairs"):
            problems.append(
                f"loss._target_={self.target['_target_']}: has no of_pairs(distance, is_same), which "
                f"data={config.data.name} needs; add one, or use loss=contrastive"
            )
        return problems

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        """See `LossSettings`.

        Raises:
            ConfigError: for what is no module, and where a small example gives no number with a gradient.
        """
        import torch
        from torch import nn

        name = f"loss._target_={self.target['_target_']}"
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # also where a plan is made, without memory
            loss = build(self.target, num_classes=classes, embedding_size=dimensions)()
            if not isinstance(loss, nn.Module):
                raise ConfigError([f"{name}: gives a {type(loss).__name__}, which is no torch.nn.Module"])
            if not hasattr(loss, "of_pairs"):  # which may be all that it has
                target = torch.tensor([0, 0, 1, 1]) % classes
                _try(loss, name, dimensions, target, "classes [4]")
        return loss

    def check_shares(self, loss: "nn.Module", classes: int) -> None:
        import torch

        name = f"loss._target_={self.target['_target_']}"
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            shares, what = torch.full((4, classes), 1 / classes), f"shares [4, {classes}]"
            try:
                _try(loss, name, classes, shares, what)
            except ConfigError as error:
                remedy = "these are the targets under data.mixup and data.cutmix; take them, or leave those out"
                raise ConfigError([f"{problem}; {remedy}" for problem in error.problems]) from error


def _try(loss: "nn.Module", name: str, dimensions: int, target: "Tensor", what: str) -> None:
    """Raise `ConfigError` where a small example gives no number with a gradient."""
    import torch

    outputs = torch.nn.functional.normalize(torch.randn(4, dimensions)).requires_grad_()
    shapes = f"outputs [4, {dimensions}] and {what}"
    try:
        with warnings.catch_warnings(action="ignore"):
            cost: Any = deepcopy(loss)(outputs, target)
    except Exception as error:  # somebody's code
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError([f"{name}: cannot take {shapes}: {reason}"]) from error
    if not isinstance(cost, torch.Tensor) or cost.ndim or not cost.requires_grad:
        what = type(cost).__name__
        if isinstance(cost, torch.Tensor):
            what = f"a tensor {list(cost.shape)}" if cost.ndim else "a number without a gradient"
        raise ConfigError([f"{name}: gives {what} for {shapes}; it must give one number with a gradient"])
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            deepcopy(loss)(outputs.detach(), target)
    except Exception as error:  # somebody's code
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ConfigError([f"{name}: cannot take {shapes} without gradients, as in validation: {reason}"]) from error
