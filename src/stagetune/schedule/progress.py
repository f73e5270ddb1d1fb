"""How a stage goes on: shapes of learning rates, and what the values of a metric say. Pure, no torch."""

import math
from collections.abc import Sequence

ONE_CYCLE_RISE, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 25 / 1e4
PLATEAU_PATIENCE, PLATEAU_FACTOR = 2, 0.1


def shape(name: str, step: int, steps: int) -> float:
    """The share of the full rate at `step`, counted from 0, of `steps`.

    `one_cycle` rises by a half cosine over the first 30% from 1/25 and falls by another to 1/250,000: Smith &
    Topin 2018, as torch's OneCycleLR, except that momentum stays as it is.
    """
    step = min(step, steps)
    if name == "cosine":
        return _half_cosine(1.0, 0.0, step / steps)
    if name == "linear":
        return 1 - step / steps
    if name == "one_cycle":
        peak, last = ONE_CYCLE_RISE * steps - 1, steps - 1
        if step <= peak or last <= peak:
            return _half_cosine(ONE_CYCLE_START, 1.0, step / peak if peak > 0 else 1.0)
        return _half_cosine(1.0, ONE_CYCLE_END, min((step - peak) / (last - peak), 1.0))
    return 1.0


def plateau_factor(values: Sequence[float], mode: str) -> float:
    """A tenth for each time that the metric got no better for more than 2 epochs.

    Counted as torch's ReduceLROnPlateau counts, improvements below a ten-thousandth of the value left out.
    """
    best, waited, factor = math.inf, 0, 1.0
    for value in values:
        cost = value if mode == "min" else -value
        if cost < (best if best == math.inf else best - 1e-4 * abs(best)):
            best, waited = cost, 0
        else:
            waited += 1
        if waited > PLATEAU_PATIENCE:
            factor, waited = factor * PLATEAU_FACTOR, 0
    return factor


def stalled(values: Sequence[float], mode: str, *, patience: int, min_delta: float) -> bool:
    """Whether the metric got no better by more than `min_delta` for `patience` values in a row, at any time."""
    best, waited = math.inf, 0
    for value in values:
        cost = value if mode == "min" else -value
        if cost < best - min_delta:
            best, waited = cost, 0
        else:
            waited += 1
        if waited >= patience:
            return True
    return False


def is_best(values: Sequence[float], mode: str) -> bool:
    """Whether the last value is better than all before it."""
    *before, last = values
    better = min if mode == "min" else max
    return not math.isnan(last) and all(last != value and better(last, value) == last for value in before)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
