"""How well embeddings tell same from different pairs: all pairs, with an interval over identities on every number."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stagetune.evaluation.pairs import IntArray, drawn_pairs
from stagetune.evaluation.roc import FloatArray, Roc
from stagetune.models.distances import measure

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
BINS = 2**20  # of distance: two distances in one bin count as equal
BLOCK = 1024
DRAWS, DRAWN_PAIRS = 200, 200_000  # of the bootstrap


def all_pairs(embeddings: Tensor, identity: Tensor, distance: str = "euclidean") -> Roc:
    """The curve of all pairs of `embeddings` [n, d], in blocks, so that 20,000 fit anywhere."""
    embeddings = embeddings.float()
    power = 1.0 if distance == "weighted_l1" else 2.0
    largest = 2 * float((embeddings - embeddings.mean(dim=0)).norm(p=power, dim=1).max()) * (1 + 1e-6) + 1e-12
    counts = torch.zeros(2 * BINS, dtype=torch.int64)
    for first in range(0, len(embeddings), BLOCK):
        rows = slice(first, first + BLOCK)
        apart = torch.cdist(
            embeddings[rows], embeddings[first:], p=power, compute_mode="donot_use_mm_for_euclid_dist"
        )  # the usual way cancels where embeddings are near each other
        place = (apart * (BINS / largest)).long().clamp_(max=BINS - 1)
        place += BINS * (identity[rows, None] == identity[None, first:])
        once = torch.ones_like(place, dtype=torch.bool).triu_(diagonal=1)
        counts += torch.bincount(place[once], minlength=2 * BINS)
    used = counts.view(2, BINS).sum(dim=0).nonzero().flatten()
    apart = (used.double() + 0.5) * (largest / BINS)
    if distance in ("squared", "cosine"):
        apart = apart.square() / (2 if distance == "cosine" else 1)
    return Roc(apart.numpy(), counts[BINS + used].double().numpy(), counts[used].double().numpy())


def report(
    embeddings: Tensor,
    identity: Tensor,
    *,
    threshold: float,
    distance: str = "euclidean",
    pairs: tuple[Tensor, Tensor, Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """AUC, EER, accuracy at a threshold that was fitted elsewhere, and TAR at several FARs, each with its interval.

    Values are of all pairs, or of `pairs` (positions of both images, is_same) where they are given. A rate finer than
    ten of the different pairs is not given as a number, but said to be unresolvable.
    """
    if pairs is None:
        roc = all_pairs(embeddings, identity, distance)
        first, second = map(torch.from_numpy, drawn_pairs(identity.numpy(), DRAWN_PAIRS, seed=seed))
    else:
        first, second, is_same = pairs
    apart = measure(embeddings[first].float() - embeddings[second].float(), distance).double().numpy()
    if pairs is not None:
        roc = Roc.of_pairs(apart, is_same.numpy())
    measures: dict[str, Callable[[Roc], float]] = {
        "auc": lambda roc: roc.auc,
        "eer": lambda roc: roc.eer,
        "accuracy": lambda roc: roc.accuracy_at(threshold),
    }
    content: dict[str, Any] = {
        "identities": len(np.unique(identity.numpy())),
        "pairs": {"same": int(roc.same.sum()), "different": int(roc.different.sum())},
        "threshold": threshold,
    }
    for far in FARS:
        name = f"tar_at_far_{far:g}"
        if roc.tar_at(far) is None:
            needed = round(10 / far)
            content[name] = {
                "unresolvable": f"needs {needed:,} different pairs, there are {int(roc.different.sum()):,}"
            }
        else:
            measures[name] = partial(Roc.true_accept_at, far=far)
    intervals = bootstrap(apart, identity[first].numpy(), identity[second].numpy(), measures, seed=seed)
    for name, of in measures.items():
        low, high = intervals[name]
        value = of(roc)
        content[name] = {"value": value, "low": min(low, value), "high": max(high, value)}
    return content


def accuracy_over_folds(distance: FloatArray, is_same: IntArray, fold: IntArray) -> dict[str, float]:
    """Accuracy of each fold at the best threshold of all others: mean and standard error (Huang et al. 2007, LFW)."""
    found = []
    for held_out in np.unique(fold):
        inside = fold == held_out
        threshold = Roc.of_pairs(distance[~inside], is_same[~inside]).threshold_of_best_accuracy()
        found.append(float(((distance[inside] <= threshold) == is_same[inside].astype(bool)).mean()))
    error = float(np.std(found, ddof=1) / np.sqrt(len(found))) if len(found) > 1 else float("nan")
    return {"accuracy": float(np.mean(found)), "standard_error": error, "folds": len(found)}


def bootstrap(
    distance: FloatArray,
    first: IntArray,
    second: IntArray,
    measures: Mapping[str, Callable[[Roc], float]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95% intervals of measures over pairs of the identities `first` and `second`, drawing identities anew.

    A pair counts as often as both its identities were drawn (a same pair: as its identity was). Pairs that share an
    identity are not independent, so drawing pairs would make intervals far too narrow (Bolle, Ratha, Pankanti 2004).
    """
    names, members = np.unique(np.concatenate([first, second]), return_inverse=True)
    order = np.argsort(distance, kind="stable")
    one, other = members[: len(first)][order], members[len(first) :][order]
    is_same = one == other
    found, starts = np.unique(distance[order], return_index=True)
    rng = np.random.default_rng([seed, 6])
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(draws):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)).astype(float)
        weight = np.where(is_same, drawn[one], drawn[one] * drawn[other])
        same, different = (np.add.reduceat(weight * kind, starts) for kind in (is_same, ~is_same))
        if same.sum() and different.sum():
            roc = Roc(found, same, different)
            for name, of in measures.items():
                values[name].append(of(roc))
    return {name: _interval(value) for name, value in values.items()}


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5]) if values else (np.nan, np.nan)
    return float(low), float(high)
