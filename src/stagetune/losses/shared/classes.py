"""What losses over classes can be told: how much each class counts, and how sure a target is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any, Self

from stagetune.config.settings import LossSettings
from stagetune.errors import ConfigError
from stagetune.typed import number

if TYPE_CHECKING:
    from torch import Tensor

    from stagetune.config.schema import Config


@dataclass
class ClassLossSettings(LossSettings):
    """Of scores [n, classes] and classes [n] or shares [n, classes].

    `class_weights`: `balanced`, or a number for each class, by which the cost of its images counts. As in torch, the
    mean over images of a class each is divided by the sum of their weights, the mean over shares by their count.
    """

    label_smoothing: float = number(0.0, 0, 0.99)
    class_weights: Any = None

    task = "classifier"

    def problems(self, config: "Config") -> Iterator[str]:
        given = self.class_weights
        numbers = given if isinstance(given, list | tuple) else []
        if given not in (None, "balanced") and not (numbers and all(map(_is_weight, numbers))):
            yield f"loss.class_weights={given}: expects balanced, or a list with a number above 0 for each class"

    def for_classes(self, classes: Sequence[str], counts: Sequence[int]) -> Self:
        """See `LossSettings`: `balanced` becomes n / (classes * count), as in scikit-learn's compute_class_weight."""
        given = self.class_weights
        if given == "balanced":
            if lacking := [name for name, count in zip(classes, counts, strict=True) if not count]:
                others = f" (nor have {len(lacking) - 1} others)" if len(lacking) > 1 else ""
                raise ConfigError(
                    [
                        f"loss.class_weights=balanced: class {lacking[0]} has no training images{others}; give it "
                        "some, leave it out of the data, or say the weights as numbers"
                    ]
                )
            return replace(self, class_weights=[sum(counts) / (len(counts) * count) for count in counts])
        if given is not None and len(given) != len(classes):
            raise ConfigError(
                [
                    f"loss.class_weights: has {len(given)} numbers for {len(classes)} classes; "
                    f"give one for each, in this order: {', '.join(classes[:10])}{', ...' if classes[10:] else ''}"
                ]
            )
        return self

    def weights(self) -> "Tensor | None":
        """The weight of each class [classes]; None where they are alike, or not known without data."""
        import torch

        known = self.class_weights not in (None, "balanced")
        return torch.tensor(self.class_weights, dtype=torch.float32) if known else None


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and value > 0
