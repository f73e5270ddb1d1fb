"""A loss of a person's own, or of a library, by `loss._target_`."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stagetune.config.schema import Config
from stagetune.config.settings import LossSettings
from stagetune.targets import build, check_target, find

if TYPE_CHECKING:
    from torch import nn

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
        loss: nn.Module = build(self.target, num_classes=classes, embedding_size=dimensions)()
        return loss
