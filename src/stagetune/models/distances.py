"""How far two embeddings are apart."""

from torch import Tensor


def measure(difference: Tensor, kind: str = "euclidean") -> Tensor:
    """Distances from differences of embeddings [..., d]; the gradient is finite also where two of them coincide.

    `cosine`, 1 - cos, is half the squared distance of embeddings of length 1. `weighted_l1` sums up absolute
    differences; the weights are the head's (Koch et al. 2015, section 3.1).
    """
    if kind == "weighted_l1":
        return difference.abs().sum(dim=-1)
    squared = difference.square().sum(dim=-1)
    if kind == "euclidean":
        return squared.clamp_min(1e-12).sqrt()
    return squared / 2 if kind == "cosine" else squared
