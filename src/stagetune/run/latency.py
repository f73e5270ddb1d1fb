"""How long two networks take for an image, measured in turns."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Compute = Callable[[npt.NDArray[np.uint8]], Any]
BATCHES = (1, 8)  # images at once
ROUNDS, LONGEST = 15, 10.0  # measurements of each network, unless they take so many seconds


def latencies(computes: Mapping[str, Compute], image_size: int) -> dict[str, dict[str, float]]:
    """Milliseconds an image, by network and batch size: medians of rounds that alternate, PyTorch on one thread.

    Args:
        computes: what is called with uint8 images [n, 3, image_size, image_size], by name.
        image_size: pixels per side.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in computes}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for size in BATCHES:
            images = np.zeros((size, 3, image_size, image_size), np.uint8)
            seconds: dict[str, list[float]] = {name: [] for name in computes}
            for compute in computes.values():  # the first call is slower
                compute(images)
            start = time.monotonic()
            for _ in range(ROUNDS):
                for name, compute in computes.items():
                    begin = time.perf_counter()
                    compute(images)
                    seconds[name].append(time.perf_counter() - begin)
                if time.monotonic() - start > LONGEST:
                    break
            for name, of in seconds.items():
                found[name][str(size)] = round(1000 * statistics.median(of) / size, 4)
    finally:
        torch.set_num_threads(threads)
    return found
