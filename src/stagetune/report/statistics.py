"""What can be said of scores over a few seeds: intervals, paired differences, and when nothing can."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05
Scores = Mapping[int, float]  # by seed


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval; the interval is None for fewer than two values."""

    mean: float
    count: int
    half: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.half is None else (self.mean - self.half, self.mean + self.half)


@dataclass(frozen=True)
class Comparison:
    """One configuration against another over the seeds that both have."""

    difference: Estimate
    p: float  # two-sided, corrected for how many comparisons were made; 1 where nothing can be said
    verdict: str  # better | worse | cannot tell


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and Student's 95% interval."""
    found = np.asarray(values, dtype=float)
    if len(found) < 2:
        return Estimate(float(found.mean()), len(found), None)
    half = stats.t.ppf(1 - LEVEL / 2, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return Estimate(float(found.mean()), len(found), float(half))


def compare(pairs: Sequence[tuple[Scores, Scores]], *, higher_is_better: bool) -> list[Comparison]:
    """The first of each pair against the second.

    Paired t-tests over common seeds, corrected by Holm's method (1979) for their number, so that in a sweep in which
    nothing differs the chance of any finding at all is 5%. `cannot tell` says just that, not that they are equal.
    """
    differences = [[one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())] for one, other in pairs]
    found = []
    for values, p in zip(differences, holm([paired_p(values) for values in differences]), strict=True):
        difference = estimate(values) if values else Estimate(math.nan, 0, None)
        is_better = difference.mean > 0 if higher_is_better else difference.mean < 0
        found.append(Comparison(difference, p, "cannot tell" if p >= LEVEL else "better" if is_better else "worse"))
    return found


def told_apart(best: Scores, others: Sequence[Scores]) -> list[bool]:
    """Whether each of `others` differs from the best of all of them.

    The best was chosen by the very scores that it is compared by. So the level is shared among the comparisons of
    all pairs (Bonferroni), whichever of them comes out best.
    """
    pairs = len(others) * (len(others) + 1) / 2
    return [
        paired_p([best[seed] - other[seed] for seed in sorted(best.keys() & other.keys())]) * pairs < LEVEL
        for other in others
    ]


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of a paired t-test; 1 for fewer than two pairs.

    Differences that are all alike have no spread to judge them by (an accuracy over few images moves in steps), so
    that they are judged by their signs alone.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not np.any(values):
        return 1.0
    if np.ptp(values) <= 1e-12 * np.abs(values).max():
        return float(2.0 ** (1 - len(values)))
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given."""
    order = np.argsort(p, kind="stable")
    corrected, largest = [1.0] * len(p), 0.0
    for rank, place in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = largest
    return corrected
