"""How well the nearest images are of the same identity."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BLOCK = 512


def retrieval(embeddings: Tensor, identity: Tensor, *, ks: Sequence[int] = (1, 5, 10)) -> dict[str, Any]:
    """recall@k, mAP and R-precision, each image once the query and all others the gallery, [n, d] and [n].

    recall@k is the share of queries with one of their identity among the k nearest (torchmetrics calls it hit rate);
    R-precision is the share of the R nearest that are of the identity, which has R others. Queries whose identity has
    no other image are left out and counted. Among equal distances those of the identity come last, so that a
    collapsed model gains nothing.
    """
    hits: dict[int, float] = dict.fromkeys(ks, 0.0)
    precision = r_precision = 0.0
    queries = alone = 0
    embeddings = embeddings.float()
    for first in range(0, len(embeddings), BLOCK):
        rows = slice(first, first + BLOCK)
        distance = torch.cdist(embeddings[rows], embeddings, compute_mode="donot_use_mm_for_euclid_dist")
        own = torch.arange(first, first + len(distance))
        relevant = identity[rows, None] == identity[None, :]
        relevant[torch.arange(len(own)), own] = False
        distance[torch.arange(len(own)), own] = torch.inf  # an image does not find itself
        for row, mine in zip(distance, relevant, strict=True):
            if not mine.any():
                alone += 1
                continue
            queries += 1
            near = row[mine].sort().values
            others = row[~mine].sort().values
            before = torch.searchsorted(others, near, right=True)  # of other identities, nearer or as near
            found = torch.arange(1, len(near) + 1)
            rank = before + found
            precision += float((found / rank).mean())
            r_precision += float((rank <= len(near)).double().mean())
            for k in ks:
                hits[k] += float(rank[0] <= k)
    share = 1 / max(queries, 1)
    return {
        **{f"recall@{k}": hit * share for k, hit in hits.items()},
        "map": precision * share,
        "r_precision": r_precision * share,
        "queries": queries,
        "without_another_image": alone,
    }
