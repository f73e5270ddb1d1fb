"""One query among many vectors beside numpy's own product of the two: `python -m benchmarks.search`.

All are timed in turn in one process, so that a machine that changes speed changes it for all.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from stagetune.inference.search import Vectors, nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    for line in lines(asked.vectors, asked.width, asked.rounds):
        print(line, flush=True)


def lines(count: int, width: int, rounds: int) -> list[str]:
    """For one query and for a hundred: milliseconds of the product, and how many times as long the searches take."""
    vectors = directions(count, width)
    searches = {
        "search": Vectors(vectors),
        "search of identities with 5 images each": Vectors(vectors, np.arange(count) // 5),
    }
    shown = [f"{count:,} x {width} float32, k=5, {rounds} rounds"]
    for queries in (directions(1, width, seed=1), directions(100, width, seed=1)):
        product, *others = side_by_side(
            [
                partial(np.matmul, vectors, queries[0])
                if len(queries) == 1
                else partial(np.matmul, queries, vectors.T),
                *(partial(nearest, queries, searched, 5) for searched in searches.values()),
            ],
            rounds if len(queries) == 1 else max(1, rounds // 4),
        )
        for what, figure in (("best", min), ("median", statistics.median)):
            shown.append(f"{len(queries)} queries, {what}: product {1e3 * figure(product):.1f} ms")
            shown += [
                f"  {name}: {figure(seconds) / figure(product):.2f} times that"
                for name, seconds in zip(searches, others, strict=True)
            ]
    return shown


def directions(count: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Random vectors of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def side_by_side(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Seconds of each of the calls, taken in turn after one of each that does not count."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, taken in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if number:
                taken.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    main()
