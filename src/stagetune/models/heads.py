"""What sits on the pooled features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INVERSE_SOFTPLUS_OF_1 = 0.5413


def linear_head(features: int, classes: int) -> nn.Module:
    """[n, features] to logits [n, classes]."""
    return nn.Linear(features, classes)


def hidden_head(features: int, classes: int, *, hidden: int = 1024, dropout: float = 0.0) -> nn.Sequential:
    """[n, features] through one hidden layer to logits [n, classes]."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes))


class EmbeddingHead(nn.Module):
    """[n, features] to embeddings [n, dimensions] of length 1, so that distances lie within 0 and 2.

    One hidden layer lies between, or none where `hidden` is None. Without `dimensions` they are the features
    themselves, each normalised over the batch (BNNeck of Luo et al. 2019, section 3.5), for a backbone that learns
    from scratch. `is_weighted` stretches each dimension by a learnt positive weight afterwards, for the weighted L1
    distance.
    """

    def __init__(
        self,
        features: int,
        dimensions: int | None = 128,
        *,
        hidden: int | None = 512,
        dropout: float = 0.0,
        is_weighted: bool = False,
    ) -> None:
        super().__init__()
        self.dimensions = dimensions or features
        self.layers = nn.Sequential(nn.BatchNorm1d(features))
        if dimensions is not None and hidden is not None:
            self.layers = hidden_head(features, dimensions, hidden=hidden, dropout=dropout)
        elif dimensions is not None:
            self.layers = nn.Sequential(nn.Linear(features, dimensions))
        self.weight = nn.Parameter(torch.full((self.dimensions,), INVERSE_SOFTPLUS_OF_1)) if is_weighted else None

    def forward(self, features: Tensor) -> Tensor:
        # float32: distances of near neighbours would vanish in half precision
        embeddings = F.normalize(self.layers(features).float(), dim=1)
        return embeddings if self.weight is None else embeddings * F.softplus(self.weight)


class Similarity(nn.Module):
    """Distances [...] to logits of `same`: bias - scale * distance.

    Both are learnt: without a bias the probability of `same` could never exceed one half.
    """

    def __init__(self, scale: float = 5.0, bias: float = 5.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, distances: Tensor) -> Tensor:
        return self.bias - self.scale * distances
