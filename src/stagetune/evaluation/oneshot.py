"""One-shot classification: which of N classes, of which one image each (or K) is shown."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stagetune.evaluation.pairs import IntArray
from stagetune.evaluation.roc import FloatArray


@dataclass(frozen=True)
class Episode:
    """Positions of the images shown, [ways, shots], and of the queries with the way that each belongs to."""

    support: IntArray
    query: IntArray
    truth: IntArray


def episodes(
    identity: IntArray, *, ways: int, shots: int, count: int, queries: int = 1, seed: int = 0
) -> list[Episode]:
    """`count` draws of `ways` identities with `shots` images shown of each and `queries` asked; always the same ones.

    Raises `ValueError` where fewer identities have as many images.
    """
    members = {label: np.flatnonzero(identity == label) for label in np.unique(identity).tolist()}
    usable = [label for label, positions in members.items() if len(positions) >= shots + queries]
    if len(usable) < ways:
        raise ValueError(
            f"{ways}-way {shots}-shot episodes need {ways} identities with {shots + queries} images, "
            f"there are {len(usable)}"
        )
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number, 7])
        chosen = rng.choice(usable, ways, replace=False).tolist()
        drawn = np.stack([rng.permutation(members[label])[: shots + queries] for label in chosen])
        truth = np.repeat(np.arange(ways), queries)
        found.append(Episode(drawn[:, :shots], drawn[:, shots:].reshape(-1), truth))
    return found


def drawer_episodes(identity: IntArray, drawer: IntArray) -> Iterator[Episode]:
    """Every ordered pair of drawers: one shows all the identities that both drew, the other is asked for each."""
    position = {(i, d): n for n, (i, d) in enumerate(zip(identity.tolist(), drawer.tolist(), strict=True))}
    drawers, identities = np.unique(drawer).tolist(), np.unique(identity).tolist()
    for one in drawers:
        for other in drawers:
            both = [i for i in identities if (i, one) in position and (i, other) in position]
            if one != other and len(both) > 1:
                support = np.array([[position[i, one]] for i in both])
                yield Episode(support, np.array([position[i, other] for i in both]), np.arange(len(both)))


def scores(distance: FloatArray, truth: IntArray) -> FloatArray:
    """Per query of `distance` [queries, ways] 1 where its own way is nearest, each judged by itself.

    A tie is not right: of m ways that are equally near one is guessed, so that a collapsed model scores chance.
    """
    nearest = distance == distance.min(axis=1, keepdims=True)
    return np.asarray(nearest[np.arange(len(truth)), truth] / nearest.sum(axis=1), dtype=np.float64)
