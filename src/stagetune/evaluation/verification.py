"""How well distances tell same from different pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_roc


@dataclass(frozen=True)
class Verification:
    """One ROC curve and what follows from it; `threshold` is the largest distance called `same`."""

    auc: float
    eer: float
    accuracy: float
    threshold: float
    distances: Tensor  # of the curve's points, ascending: pairs up to it are accepted
    false_accept_rate: Tensor
    true_accept_rate: Tensor

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """False and true accept rate when distances up to `threshold` are called `same`."""
        point = max(int((self.distances <= threshold).sum()) - 1, 0)
        return self.false_accept_rate[point].item(), self.true_accept_rate[point].item()


def similarity_score(distance: Tensor) -> Tensor:
    """Distances to scores in (0, 1], larger for more alike, in float64 so that near distances stay apart.

    The one place where this is done: torchmetrics puts a sigmoid on scores outside [0, 1], decided per call.
    """
    return 1 / (1 + distance.double())


def verify(distance: Tensor, is_same: Tensor) -> Verification:
    """Measure pairs of the given distances; the threshold is the one of best accuracy on these very pairs."""
    false_accept, true_accept, scores = binary_roc(similarity_score(distance), is_same.long())
    false_accept, true_accept = false_accept.double(), true_accept.double()
    distances = 1 / scores.double() - 1
    auc = torch.trapezoid(true_accept, false_accept)
    # equal error rate: where false accepts and false rejects cross, interpolated between two points of the curve
    gap = false_accept - (1 - true_accept)
    after = int((gap >= 0).int().argmax())
    before = max(after - 1, 0)
    step = gap[after] - gap[before]
    share = (-gap[before] / step).item() if step > 0 else 0.0
    eer = false_accept[before] + share * (false_accept[after] - false_accept[before])
    # accuracy of every threshold of the curve; the first point accepts nothing
    same = is_same.double().mean()
    accuracy = true_accept * same + (1 - false_accept) * (1 - same)
    best = int(accuracy.argmax())
    return Verification(
        auc=auc.item(),
        eer=eer.item(),
        accuracy=accuracy[best].item(),
        threshold=_between(distances, best),
        distances=distances,
        false_accept_rate=false_accept,
        true_accept_rate=true_accept,
    )


def accuracy_at(threshold: float, distance: Tensor, is_same: Tensor) -> float:
    """Share of pairs told right when distances up to `threshold` are called `same`."""
    return ((distance.double() <= threshold) == is_same.bool()).double().mean().item()


def _between(distances: Tensor, best: int) -> float:
    """Halfway from the last accepted distance to the next one: the safest of equally good thresholds."""
    return distances[best : best + 2].mean().item() if best else 0.0
