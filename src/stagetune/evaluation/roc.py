"""Same and different pairs by their distance: one curve and what follows from it."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from stagetune.errors import DataError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
RESOLVED = 10  # false accepts, below which a rate is not known


@dataclass(frozen=True)
class Roc:
    """How many same and different pairs stand at each of the rising distances, by count or by weight.

    Pairs up to a threshold are accepted. A rate over no pairs at all is 0.
    """

    distance: FloatArray  # [n]
    same: FloatArray  # [n]
    different: FloatArray  # [n]

    @classmethod
    def of_pairs(cls, distance: npt.ArrayLike, is_same: npt.ArrayLike) -> "Roc":
        """The curve of single pairs; those of one distance are accepted together.

        Raises `DataError` for a distance that is NaN: such a pair is neither accepted nor not.
        """
        apart = np.asarray(distance, dtype=np.float64)
        if missing := int(np.isnan(apart).sum()):
            raise DataError(f"distances: {missing} of {apart.size} are NaN; leave these pairs out")
        found, place = np.unique(apart, return_inverse=True)
        same = np.asarray(is_same, dtype=bool)
        return cls(found, *(np.bincount(place[kind], minlength=len(found)).astype(float) for kind in (same, ~same)))

    @cached_property
    def true_accept(self) -> FloatArray:
        """[n + 1]: the share of same pairs accepted before the first distance, and up to each."""
        return _rising_share(self.same)

    @cached_property
    def false_accept(self) -> FloatArray:
        """[n + 1]: the share of different pairs accepted, likewise."""
        return _rising_share(self.different)

    @property
    def auc(self) -> float:
        """The probability that a same pair is nearer than a different one; equal distances count half."""
        return float(np.trapezoid(self.true_accept, self.false_accept))

    @property
    def eer(self) -> float:
        """Where false accepts and false rejects are equally frequent, interpolated between two points."""
        gap = self.false_accept - (1 - self.true_accept)
        after = int(np.argmax(gap >= 0))
        before = max(after - 1, 0)
        step = gap[after] - gap[before]
        share = -gap[before] / step if step > 0 else 0.0
        return float(self.false_accept[before] + share * (self.false_accept[after] - self.false_accept[before]))

    def tar_at(self, far: float) -> float | None:
        """The share of same pairs accepted where at most `far` of the different ones are.

        None where the pairs are too few to tell: a rate wants ten false accepts to be known.
        """
        return self.true_accept_at(far) if self.different.sum() * far >= RESOLVED else None

    def true_accept_at(self, far: float) -> float:
        """The same, however few the pairs are."""
        return float(self.true_accept[np.searchsorted(self.false_accept, far + 1e-12, side="right") - 1])

    def accuracy_at(self, threshold: float) -> float:
        """The share told right when pairs up to `threshold` are called same, with as many same as different ones."""
        point = int(np.searchsorted(self.distance, threshold, side="right"))
        return float(self.true_accept[point] + 1 - self.false_accept[point]) / 2

    def rates_at(self, threshold: float) -> tuple[float, float]:
        """False and true accept rate at a threshold."""
        point = int(np.searchsorted(self.distance, threshold, side="right"))
        return float(self.false_accept[point]), float(self.true_accept[point])

    def threshold_of_best_accuracy(self) -> float:
        return self._after(int(np.argmax(self.true_accept - self.false_accept)))

    def threshold_of_equal_errors(self) -> float:
        return self._after(int(np.argmin(np.abs(self.false_accept - (1 - self.true_accept)))))

    def threshold_at(self, far: float) -> float:
        """The largest distance up to which at most `far` of the different pairs are accepted."""
        return self._after(int(np.searchsorted(self.false_accept, far + 1e-12, side="right")) - 1)

    def _after(self, point: int) -> float:
        """Halfway from the last accepted distance to the next one: the safest of equally good thresholds."""
        if point == 0:
            return float(np.nextafter(self.distance[0], -np.inf)) if len(self.distance) else 0.0
        return float(self.distance[point - 1 : point + 1].mean())


def _rising_share(counts: FloatArray) -> FloatArray:
    rising = np.concatenate([[0.0], np.cumsum(counts)])
    return rising / rising[-1] if rising[-1] else rising
