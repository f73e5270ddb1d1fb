"""Same identity or not: each image is encoded once, pairs are formed from the encodings."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from stagetune.data.datamodule import TESTED, Batch
from stagetune.data.gather import gather_rows
from stagetune.data.source import Pairs
from stagetune.evaluation.calibration import Calibration, calibrate
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.roc import Roc
from stagetune.models.distances import measure
from stagetune.tasks.metrics import OwnMetrics, Part
from stagetune.tasks.staged_task import StagedTask

PAIRS_AT_ONCE = 4096  # so that the memory for their differences stays small
MEASURED = ("loss", "auc", "eer", "accuracy", "same_distance", "different_distance", "spread")


@dataclass(frozen=True)
class Encoded:
    """All images of a part, and the pairs of them that are measured in each epoch, or that a table gives."""

    embeddings: Tensor  # [n, d]
    identity: Tensor  # [n]
    index: Tensor  # [n], in the source
    pairs: tuple[Tensor, Tensor, Tensor]  # positions of both images, is_same
    distance: Tensor  # [pairs]
    fold: Tensor | None  # of each pair, where a table gives them and there are no others; -1 in no fold


def given_pairs(pairs: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Those of `pairs` [4, m] of which both images are in a batch of `index` [n]: positions in it, is_same, fold."""
    where = torch.full((int(pairs[:2].max()) + 1 if pairs.numel() else 1,), -1, device=index.device)
    known = index < len(where)
    where[index[known]] = torch.arange(len(index), device=index.device)[known]
    first, second = where[pairs[0]], where[pairs[1]]
    inside = (first >= 0) & (second >= 0)
    return first[inside], second[inside], pairs[2][inside], pairs[3][inside]


def measured_pairs(
    identity: Tensor, index: Tensor, given: Tensor | None, limit: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The pairs that a part is measured on: positions of both images, is_same, and their folds if they have any.

    Args:
        identity: of each image [n].
        index: of each in the source [n].
        given: pairs [4, m] of a table, of which those within the part are taken.
        limit: how many there are at most where no table gives them.
    """
    if given is not None:
        return given_pairs(given, index)
    first, second = map(torch.from_numpy, evaluation_pairs(identity.numpy(), limit))
    return first, second, identity[first] == identity[second], None


def distances(embeddings: Tensor, first: Tensor, second: Tensor, kind: str) -> Tensor:
    """How far apart the images of each pair are, some pairs at a time."""
    sides = (torch.split(side, PAIRS_AT_ONCE) for side in (first, second))
    return torch.cat([measure(embeddings[one] - embeddings[other], kind) for one, other in zip(*sides, strict=True)])


def stacked(pairs: Pairs | None) -> Tensor | None:
    """Pairs of a table as one tensor [4, pairs]: indices of two images, is_same and fold."""
    if pairs is None:
        return None
    return torch.from_numpy(np.stack([pairs.first, pairs.second, pairs.is_same, pairs.fold]))


def sameness(distance: Tensor, threshold: float) -> Tensor:
    """How surely each pair is the same, sigmoid(threshold - distance): above 0.5 up to the threshold.

    No value is 0.5 itself, nor is it after rounding to single precision: some metrics count that as different.
    """
    distance = distance.double()
    sure = torch.sigmoid(threshold - distance)
    return torch.where(distance <= threshold, sure.clamp(min=0.5 + 2**-24), sure.clamp(max=0.5 - 2**-25))


class SiameseTask(StagedTask):
    """Embeddings under a pair or triplet loss; validation and test verify fixed pairs of images, or given ones.

    The distance up to which a pair is called `same` is fitted in validation, kept in the checkpoint, and used
    unchanged in the test. `calibration` says how: the kind, and for kind `far` the false accept rate wanted.
    `metrics` of the user's own, by name, take the `sameness` [pairs] at that threshold, and is_same [pairs].
    """

    threshold: Tensor
    pairs: Tensor | None  # [4, pairs]: indices of two images, is_same and fold, where a table gives pairs

    def __init__(
        self,
        *args: Any,
        distance: str = "euclidean",
        calibration: tuple[str, float] = ("accuracy", 0.01),
        eval_pairs: int = 100_000,
        pairs: Pairs | None = None,
        metrics: Mapping[str, Metric] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.own_metrics = OwnMetrics(
            metrics or {},
            ours=MEASURED,
            example=(torch.tensor([0.9, 0.6, 0.4, 0.1]), torch.tensor([1, 0, 1, 0])),
            given="probabilities of same [n] and is_same [n]",
        )
        self.distance, self.eval_pairs, self._calibrate = distance, eval_pairs, calibration
        self.register_buffer("threshold", torch.tensor(0.0, dtype=torch.float64))
        self.calibration: Calibration | None = None  # the latest, as is the curve
        self.roc: Roc | None = None
        self.encoded: dict[str, Encoded] = {}  # by part; the test encodes validation, too
        self.register_buffer("pairs", stacked(pairs), persistent=False)
        self._encoded: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self._losses: dict[str, list[Tensor]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        cost = self._cost(*self.run(batch), batch)
        self.batch_figures = dict(getattr(self.loss, "figures", {}))
        return cost

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._encode("val", batch)

    def on_validation_epoch_end(self) -> None:
        loss, roc, spread = self._measured("val")
        self.roc = roc
        kind, far = self._calibrate
        self.calibration = calibrate(roc, kind, far=far)
        self.threshold.fill_(self.calibration.threshold)
        self.log_dict(
            {
                "val/loss": loss,
                "val/auc": roc.auc,
                "val/eer": roc.eer,
                "val/accuracy": roc.accuracy_at(self.calibration.threshold),
                "val/same_distance": _mean(roc.distance, roc.same),
                "val/different_distance": _mean(roc.distance, roc.different),
                "val/spread": spread,
                **self._own("val"),
            }
        )

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._encode(TESTED[dataloader_idx], batch)

    def on_test_epoch_end(self) -> None:
        self._measured("val")
        loss, roc, _ = self._measured("test")
        self.roc = roc
        accuracy = roc.accuracy_at(self.threshold.item())
        self.log_dict({"test/loss": loss, "test/auc": roc.auc, "test/eer": roc.eer, "test/accuracy": accuracy})
        self.log_dict(self._own("test"))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.calibration is not None:
            replace(self.metadata, calibration=asdict(self.calibration)).put_into(checkpoint)

    def _encode(self, part: Part, batch: Batch) -> None:
        embeddings, target = self.run(batch)
        self._losses.setdefault(part, []).append(self._cost(embeddings, target, batch) * len(target))
        encoded = (embeddings.cpu(), target.cpu(), gather_rows(self, batch.index).cpu())
        self._encoded.setdefault(part, []).append(encoded)

    def _cost(self, embeddings: Tensor, identity: Tensor, batch: Batch) -> Tensor:
        """The loss of all pairs of a batch, or of those that the table gives."""
        if self.pairs is None:
            cost: Tensor = self.loss(embeddings, identity)
            return cost
        first, second, is_same, _ = given_pairs(self.pairs, gather_rows(self, batch.index))
        apart = embeddings.index_select(0, first) - embeddings.index_select(0, second)
        loss: Any = self.loss  # one that takes pairs: validated
        return loss.of_pairs(measure(apart, self.distance), is_same.bool())  # type: ignore[no-any-return]

    def _own(self, part: Part) -> dict[str, Tensor]:
        """The user's own metrics of the pairs measured last, at the threshold as it is now."""
        found = self.encoded[part]
        sure, is_same = sameness(found.distance, self.threshold.item()), found.pairs[2].long()
        dtype = torch.float32 if self.device.type == "mps" else torch.float64  # which has no doubles
        self.own_metrics.update(part, sure.to(self.device, dtype), is_same.to(self.device))
        return self.own_metrics.compute(part)

    def _measured(self, part: Part) -> tuple[Tensor, Roc, Tensor]:
        """Mean loss, the curve of fixed pairs, and the spread of all images of a part since the last call."""
        embeddings, identity, index = (torch.cat(parts) for parts in zip(*self._encoded.pop(part), strict=True))
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        loss = torch.stack(self._losses.pop(part)).sum() / len(identity)
        given = None if self.pairs is None else self.pairs.cpu()
        first, second, is_same, fold = measured_pairs(identity, index, given, self.eval_pairs)
        distance = distances(embeddings, first, second, self.distance)
        self.encoded[part] = Encoded(embeddings, identity, index, (first, second, is_same), distance, fold)
        roc = Roc.of_pairs(distance.numpy(), is_same.numpy())
        # 0 where all embeddings coincide, 1 where they point everywhere alike
        spread = (embeddings - embeddings.mean(dim=0)).square().sum() / embeddings.square().sum()
        return loss, roc, spread


def _mean(distance: Any, counts: Any) -> float:
    return float((distance * counts).sum() / max(counts.sum(), 1))
