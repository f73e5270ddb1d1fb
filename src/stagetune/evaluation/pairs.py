"""Which pairs a verification is measured on: a pure function of the identities."""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def evaluation_pairs(identity: IntArray, limit: int, *, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Positions (first, second) of same pairs and as many different pairs, `limit` pairs at most.

    All same pairs are used where they fit, else a draw of them; different ones are drawn without repetition.
    """
    rng = np.random.default_rng([seed, 5])
    count = len(identity)
    same = _same_pairs(identity, limit // 2, rng)
    sizes = np.unique(identity, return_counts=True)[1]
    wanted = int(min(len(same), (count**2 - (sizes**2).sum()) // 2))
    chosen: set[int] = set()
    while len(chosen) < wanted:
        first, second = rng.integers(0, count, (2, 2 * wanted))
        fits = (first < second) & (identity[first] != identity[second])
        for code in (first * count + second)[fits].tolist():
            if len(chosen) < wanted:
                chosen.add(code)
    codes = np.array(sorted(chosen), dtype=np.int64)
    both = np.concatenate([same, np.stack([codes // count, codes % count], axis=1)])
    return both[:, 0], both[:, 1]


def drawn_pairs(identity: IntArray, limit: int, *, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Positions (first, second) of all pairs, or of about `limit` of them: same pairs up to half, and different ones.

    Same and different pairs are drawn apart, so that their rates are those of all pairs.
    """
    rng = np.random.default_rng([seed, 10])
    every = len(identity) * (len(identity) - 1) // 2
    if every <= limit:
        first, second = _pair_of_rank(np.arange(every))
        return first, second
    same = _same_pairs(identity, limit // 2, rng)
    first, second = _pair_of_rank(np.unique(rng.integers(0, every, limit - len(same))))
    apart = identity[first] != identity[second]
    return np.concatenate([same[:, 0], first[apart]]), np.concatenate([same[:, 1], second[apart]])


def _same_pairs(identity: IntArray, limit: int, rng: np.random.Generator) -> IntArray:
    """[n, 2]: all pairs of one identity, or a draw of `limit` of them."""
    members = [np.flatnonzero(identity == label) for label in np.unique(identity)]
    sizes = np.array([len(positions) for positions in members])
    ends = np.cumsum(sizes * (sizes - 1) // 2)
    every = int(ends[-1]) if len(identity) else 0
    ranks = np.sort(rng.choice(every, limit, replace=False)) if every > limit else np.arange(every)
    owner = np.searchsorted(ends, ranks, side="right")
    low, high = _pair_of_rank(ranks - (ends - sizes * (sizes - 1) // 2)[owner])
    starts = np.cumsum(sizes) - sizes
    flat = np.concatenate(members) if members else np.empty(0, dtype=np.int64)
    return np.stack([flat[starts[owner] + low], flat[starts[owner] + high]], axis=1)


def _pair_of_rank(rank: IntArray) -> tuple[IntArray, IntArray]:
    """The rank-th pair (low, high) in the order (0,1), (0,2), (1,2), (0,3), ... without listing those before it."""
    high = ((1 + np.sqrt(8 * rank.astype(np.float64) + 1)) // 2).astype(np.int64)
    return rank - high * (high - 1) // 2, high
