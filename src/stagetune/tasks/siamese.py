"""Same identity or not: each image is encoded once, pairs are formed from the encodings."""

from typing import Any

import torch
from torch import Tensor

from stagetune.data.datamodule import Batch
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.evaluation.verification import Verification, accuracy_at, verify
from stagetune.tasks.staged_task import StagedTask


class SiameseTask(StagedTask):
    """Embeddings under a pair or triplet loss; validation and test verify fixed pairs of images.

    The distance up to which a pair is called `same` is fitted in validation, kept in the checkpoint, and used
    unchanged in the test.
    """

    threshold: Tensor

    def __init__(self, *args: Any, eval_pairs: int = 100_000, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.eval_pairs = eval_pairs
        self.register_buffer("threshold", torch.tensor(0.0, dtype=torch.float64))
        self.verification: Verification | None = None  # the latest, for the picture of its ROC curve
        self._encoded: list[tuple[Tensor, Tensor]] = []
        self._losses: list[Tensor] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._encode(batch)

    def on_validation_epoch_end(self) -> None:
        loss, distance, is_same = self._drain()
        measured = self.verification = verify(distance, is_same)
        self.threshold.fill_(measured.threshold)
        self.log_dict(
            {
                "val/loss": loss,
                "val/auc": measured.auc,
                "val/eer": measured.eer,
                "val/accuracy": measured.accuracy,
            }
        )

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._encode(batch)

    def on_test_epoch_end(self) -> None:
        loss, distance, is_same = self._drain()
        measured = self.verification = verify(distance, is_same)
        accuracy = accuracy_at(self.threshold.item(), distance, is_same)
        self.log_dict(
            {"test/loss": loss, "test/auc": measured.auc, "test/eer": measured.eer, "test/accuracy": accuracy}
        )

    def _encode(self, batch: Batch) -> None:
        embeddings, target = self.run(batch)
        self._losses.append(self.loss(embeddings, target) * len(target))
        self._encoded.append((embeddings.cpu(), target.cpu()))

    def _drain(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean loss, and distance and `is_same` of the fixed pairs of all images encoded since the last call."""
        embeddings = torch.cat([encoded for encoded, _ in self._encoded])
        identity = torch.cat([target for _, target in self._encoded])
        loss = torch.stack(self._losses).sum() / len(identity)
        self._encoded.clear()
        self._losses.clear()
        first, second = map(torch.from_numpy, evaluation_pairs(identity.numpy(), self.eval_pairs))
        distance = torch.linalg.vector_norm(embeddings[first] - embeddings[second], dim=1)
        return loss, distance, identity[first] == identity[second]
