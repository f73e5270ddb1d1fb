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
from stagetune.tasks.staged_task import StagedTask, check_finite

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


def stacked(pairs: Pairs | None) -> Tensor | None:
    """The pairs of a table as one tensor [4, pairs]: indices of two images, is_same and fold."""
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

    def compared(self, embeddings: Tensor, identity: Tensor, index: Tensor) -> Encoded:
        """Images of one part with the pairs of them that are measured, and how far these are apart; on the CPU.

        Args:
            embeddings: [n, d].
            identity: [n].
            index: [n], in the source.
        """
        embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
        if self.pairs is None:
            first, second = map(torch.from_numpy, evaluation_pairs(identity.numpy(), self.eval_pairs))
            is_same, fold = identity[first] == identity[second], None
        else:
            first, second, is_same, fold = given_pairs(self.pairs.cpu(), index)
        apart = [
            measure(embeddings[one] - embeddings[other], self.distance)
            for one, other in zip(*(torch.split(side, PAIRS_AT_ONCE) for side in (first, second)), strict=True)
        ]
        return Encoded(embeddings, identity, index, (first, second, is_same), torch.cat(apart), fold)

    def _measured(self, part: Part) -> tuple[Tensor, Roc, Tensor]:
        """Mean loss, the curve of fixed pairs, and the spread of all images of a part since the last call."""
        encoded, identity, index = (torch.cat(parts) for parts in zip(*self._encoded.pop(part), strict=True))
        check_finite(encoded, "embeddings", part)
        found = self.compared(encoded, identity, index)
        embeddings = found.embeddings
        loss = torch.stack(self._losses.pop(part)).sum() / len(found.identity)
        self.encoded[part] = found
        roc = Roc.of_pairs(found.distance.numpy(), found.pairs[2].numpy())
        # 0 where all embeddings coincide, 1 where they point everywhere alike
        spread = (embeddings - embeddings.mean(dim=0)).square().sum() / embeddings.square().sum()
        return loss, roc, spread


def _mean(distance: Any, counts: Any) -> float:
    return float((distance * counts).sum() / max(counts.sum(), 1))
