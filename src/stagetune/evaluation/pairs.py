"""Which pairs a verification is measured on: a pure function of the identities."""

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def evaluation_pairs(identity: IntArray, limit: int, *, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Positions (first, second) of same pairs and as many different pairs, `limit` pairs at most.

    All same pairs are used where they fit; different ones are drawn without repetition.
    """
    rng = np.random.default_rng([seed, 5])
    count = len(identity)
    same = [_all_pairs(np.flatnonzero(identity == label)) for label in np.unique(identity)]
    pairs = np.concatenate(same) if same else np.empty((0, 2), dtype=np.int64)
    if len(pairs) > limit // 2:
        pairs = pairs[np.sort(rng.choice(len(pairs), limit // 2, replace=False))]
    possible = (count**2 - (np.unique(identity, return_counts=True)[1] ** 2).sum()) // 2
    wanted = int(min(len(pairs), possible))
    chosen: set[int] = set()
    while len(chosen) < wanted:
        first, second = rng.integers(0, count, (2, 2 * wanted))
        fits = (first < second) & (identity[first] != identity[second])
        for code in (first * count + second)[fits].tolist():
            if len(chosen) < wanted:
                chosen.add(code)
    codes = np.array(sorted(chosen), dtype=np.int64)
    different = np.stack([codes // count, codes % count], axis=1)
    both = np.concatenate([pairs, different])
    return both[:, 0], both[:, 1]


def _all_pairs(positions: IntArray) -> IntArray:
    first, second = np.triu_indices(len(positions), k=1)
    return np.stack([positions[first], positions[second]], axis=1)
