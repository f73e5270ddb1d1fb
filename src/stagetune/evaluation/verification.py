"""How well embeddings tell same from different pairs: all pairs, with an interval on every number."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stagetune.evaluation.embeddings import as_embeddings
from stagetune.evaluation.pairs import IntArray, drawn_pairs
from stagetune.evaluation.roc import FloatArray, Roc
from stagetune.models.distances import measure

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
BINS = 2**20  # of distance: two distances in one bin count as equal
BLOCK = 1024
DRAWS, DRAWN_PAIRS = 200, 200_000  # of the bootstrap


def all_pairs(embeddings: Tensor, identity: Tensor, distance: str = "euclidean") -> Roc:
    """The curve of all pairs of `embeddings` [n, d], in blocks, so that 20,000 fit anywhere.

    Raises `DataError` for what is no embedding, see `as_embeddings`.
    """
    embeddings, identity = as_embeddings(embeddings, identity)
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
    groups: IntArray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """AUC, EER, accuracy at a threshold that was fitted elsewhere, and TAR at several FARs, each with its interval.

    Values are of all pairs, or of `pairs` (positions of both images, is_same) where they are given. A rate finer than
    ten of the different pairs is not given as a number, but said to be unresolvable. Intervals draw identities anew,
    or `groups` (of each image [n], such as its patient) where identities lie within them; `interval_over` says which.
    Raises `DataError` for what is no embedding, see `as_embeddings`.
    """
    embeddings, identity = as_embeddings(embeddings, identity)
    if pairs is None:
        roc = all_pairs(embeddings, identity, distance)
        first, second = map(torch.from_numpy, drawn_pairs(identity.numpy(), DRAWN_PAIRS, seed=seed))
        is_same = identity[first] == identity[second]
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
    over, unit = interval_unit(identity.numpy(), groups)
    content: dict[str, Any] = {
        "interval_over": over,
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
    intervals = bootstrap(apart, unit[first], unit[second], measures, is_same=is_same.numpy().astype(bool), seed=seed)
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
    is_same: npt.NDArray[np.bool_] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95% intervals of measures over pairs, drawing anew the units that the `first` and the `second` images are of.

    A pair counts as often as both its units were drawn (one within a unit: as that was). Pairs that share an identity
    are not independent, so drawing pairs would make intervals far too narrow (Bolle, Ratha, Pankanti 2004); nor are
    identities of one group, such as the moles of a patient, so that a unit is the coarser of the two.

    Args:
        distance: of each pair [pairs].
        first: the unit of its first image [pairs].
        second: of its second image [pairs].
        measures: what is computed of the curve of each draw.
        is_same: whether it is of one identity [pairs]; None: where both are of one unit, units being identities.
        draws: how often units are drawn.
        seed: of the draws.

    Returns:
        Low and high end by the measure's name.
    """
    names, members = np.unique(np.concatenate([first, second]), return_inverse=True)
    order = np.argsort(distance, kind="stable")
    one, other = members[: len(first)][order], members[len(first) :][order]
    within = one == other
    is_same = within if is_same is None else is_same[order]
    found, starts = np.unique(distance[order], return_index=True)
    rng = np.random.default_rng([seed, 6])
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(draws):
        drawn = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)).astype(float)
        weight = np.where(within, drawn[one], drawn[one] * drawn[other])
        same, different = (np.add.reduceat(weight * kind, starts) for kind in (is_same, ~is_same))
        if same.sum() and different.sum():
            roc = Roc(found, same, different)
            for name, of in measures.items():
                values[name].append(of(roc))
    return {name: _interval(value) for name, value in values.items()}


def interval_unit(identity: IntArray, groups: IntArray | None) -> tuple[str, IntArray]:
    """What intervals draw anew, `groups` or `identities`, and the unit of each image [n].

    Groups where every identity lies within one of them and there are several; else identities, which may be of
    several groups (the same people in other sessions).
    """
    if groups is None:
        return "identities", identity
    pairs = len(np.unique(np.stack([identity, groups]), axis=1).T)
    identities, count = len(np.unique(identity)), len(np.unique(groups))
    return ("groups", groups) if pairs == identities > count > 1 else ("identities", identity)


def _interval(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5]) if values else (np.nan, np.nan)
    return float(low), float(high)
