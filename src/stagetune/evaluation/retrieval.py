"""How well the nearest images are of the same identity."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from stagetune.evaluation.embeddings import as_embeddings

BLOCK = 512


def retrieval(
    embeddings: Tensor, identity: Tensor, *, distance: str = "euclidean", ks: Sequence[int] = (1, 5, 10)
) -> dict[str, Any]:
    """recall@k, mAP, mAP@R and R-precision, each image once the query and all others the gallery, [n, d] and [n].

    recall@k is the share of queries with one of their identity among the k nearest (torchmetrics calls it hit rate).
    With R others of the query's identity, R-precision is the share of the R nearest that are of it, and mAP@R the
    mean over these R ranks of the precision where they are, 0 where not (Musgrave, Belongie, Lim 2020, section 3.2).
    Queries whose identity has no other image are left out and counted. Among equal distances those of the identity
    come last, so that a collapsed model gains nothing. Raises `DataError` for what is no embedding, see
    `as_embeddings`.
    """
    hits: dict[int, float] = dict.fromkeys(ks, 0.0)
    precision = precision_at_r = r_precision = 0.0
    queries = alone = 0
    for apart, relevant in _blocks(embeddings, identity, distance):
        for row, mine in zip(apart, relevant, strict=True):
            if not mine.any():
                alone += 1
                continue
            queries += 1
            near = row[mine].sort().values
            others = row[~mine].sort().values
            before = torch.searchsorted(others, near, right=True)  # of other identities, nearer or as near
            found = torch.arange(1, len(near) + 1)
            rank = before + found
            at_rank = (found / rank).double()
            precision += float(at_rank.mean())
            precision_at_r += float((at_rank * (rank <= len(near))).mean())
            r_precision += float((rank <= len(near)).double().mean())
            for k in ks:
                hits[k] += float(rank[0] <= k)
    share = 1 / max(queries, 1)
    return {
        **{f"recall@{k}": hit * share for k, hit in hits.items()},
        "map": precision * share,
        "map@r": precision_at_r * share,
        "r_precision": r_precision * share,
        "queries": queries,
        "without_another_image": alone,
    }


def nearest_others(
    embeddings: Tensor, identity: Tensor, distance: str = "euclidean"
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each image the nearest other one, how far the two are apart, and whether its identity has another; each [n].

    Among equal distances one of another identity is taken, as in `retrieval`.
    """
    places, distances, has_others = [], [], []
    for apart, relevant in _blocks(embeddings, identity, distance):
        (near, mine), (other, foreign) = (
            apart.where(chosen, torch.inf).min(dim=1) for chosen in (relevant, ~relevant)
        )
        places.append(torch.where(near < other, mine, foreign))
        distances.append(torch.minimum(near, other))
        has_others.append(relevant.any(dim=1))
    apart = torch.cat(distances)
    if distance in ("squared", "cosine"):
        apart = apart.square() / (2 if distance == "cosine" else 1)
    return torch.cat(places), apart, torch.cat(has_others)


def _blocks(embeddings: Tensor, identity: Tensor, distance: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of distances to all images, endless to itself, and of whether each other one is of the row's identity.

    Squared and cosine distances of unit embeddings have the order of Euclidean ones, in which they are given.
    """
    embeddings, identity = as_embeddings(embeddings, identity)
    embeddings = embeddings.float()
    power = 1.0 if distance == "weighted_l1" else 2.0
    for first in range(0, len(embeddings), BLOCK):
        rows = slice(first, first + BLOCK)
        apart = torch.cdist(embeddings[rows], embeddings, p=power, compute_mode="donot_use_mm_for_euclid_dist")
        own = torch.arange(first, first + len(apart))
        relevant = identity[rows, None] == identity[None, :]
        relevant[torch.arange(len(own)), own] = False
        apart[torch.arange(len(own)), own] = torch.inf  # an image does not find itself
        yield apart, relevant
