"""What reading photographs costs as a run begins, the first time and again: `python -m benchmarks.start`.

Beside it what a start costs that decodes every photograph twice at full size, once for a digest of its pixels and
once for the table, as ours did in 0.1.0. All three take turns; `--command` adds whole commands, without their fit.
"""

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from stagetune.artifacts import RunDir
from stagetune.cache.store import forget
from stagetune.config.compose import compose
from stagetune.data.decoding import rgb
from stagetune.data.transforms import prepare
from stagetune.report.result import read_result
from stagetune.run.data import build_data, build_store, decode_once, reading_of
from stagetune.run.screen import Screen

SIZE = (4000, 3000)
RUN = ("+experiment=classifier_staged", "data=image_folder", "schedule=head_only", "schedule.stages.0.epochs=1")
NETWORK = ("model=resnet18", "model.weights=random", "data.augment=none", "trainer=cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photographs", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where they are made, or lie already (default: a temporary one)")
    parser.add_argument("--command", action="store_true", help="time `stagetune train`, too, without its fit")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as kept:
        folder = asked.folder or Path(kept) / "photographs"
        write_photographs(folder, asked.photographs)
        for line in lines(folder, asked.rounds, with_command=asked.command):
            print(line, flush=True)


def write_photographs(folder: Path, count: int) -> None:
    """JPEG files of 12 megapixels and about 4 MB in two folders; those that are there stay."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(load_sample_image(name)).resize(SIZE) for name in ("china.jpg", "flower.jpg")]
    grain = rng.normal(0, 9, (SIZE[1], SIZE[0], 1)).astype(np.int16)
    starts = rng.integers(0, SIZE[0], count).tolist()

    def write(i: int) -> None:
        path = folder / ("china", "flower")[i % 2] / f"{i:04}.jpg"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            turned = np.roll(np.asarray(photographs[i % 2]), starts[i], axis=1)
            noisy = turned.astype(np.int16) + np.roll(grain, starts[i], axis=0)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))


def lines(folder: Path, rounds: int, *, with_command: bool) -> Iterator[str]:
    """Seconds of each kind of start, and the shares of the one that decodes twice at full size."""
    files = sorted(folder.rglob("*.jpg"))
    megabytes = sum(path.stat().st_size for path in files) / len(files) / 1e6
    yield f"{len(files)} photographs of {SIZE[0]} x {SIZE[1]}, {megabytes:.1f} MB each, {os.cpu_count()} cores"
    yield from timed("data", rounds, lambda: decode_twice(files), lambda: start(folder))
    if with_command:
        yield from timed("command", rounds, None, lambda: command(folder))


def timed(what: str, rounds: int, twice: Callable[[], float] | None, ours: Callable[[], float]) -> Iterator[str]:
    """A line for the first start and one for the second, each in turn with the others."""
    seconds: dict[str, list[float]] = {"decoded twice": [], "first start": [], "second start": []}
    for _ in range(rounds):
        if twice is not None:
            seconds["decoded twice"].append(twice())
        with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, STAGETUNE_CACHE=cache):
            seconds["first start"].append(ours())
            seconds["second start"].append(ours())
    for name, taken in seconds.items():
        if taken:
            shares = [one / other for one, other in zip(taken, seconds["decoded twice"], strict=False)]
            said = f"{what}, {name}: {statistics.median(taken):.2f} s"
            if shares and name != "decoded twice":
                said += f", {statistics.median(shares):.4f} of that ({min(shares):.4f} to {max(shares):.4f})"
            yield said


def decode_twice(files: list[Path]) -> float:
    """Seconds for a digest of all pixels of each file, and then for the square that a network sees."""

    def full(path: Path) -> str:
        with Image.open(path) as opened:
            return hashlib.blake2b(rgb(opened).numpy().tobytes(), digest_size=16).hexdigest()

    def square(path: Path) -> object:
        with Image.open(path) as opened:
            return prepare(rgb(opened), 224)

    begun = time.perf_counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for look in (full, square):
            list(pool.map(look, files))
    return time.perf_counter() - begun


def start(folder: Path) -> float:
    """Seconds of what a run does with its data before it builds a network."""
    forget()
    config, screen = compose([*RUN, *NETWORK, f"data.root={folder}"]), Screen(quiet=True)
    begun = time.perf_counter()
    with reading_of(config, screen, decodes_once=True) as reading:
        data = build_data(config, reading=reading)
        decode_once(data, build_store(config, print, writes=True), reading)
    return time.perf_counter() - begun


def command(folder: Path) -> float:
    """Seconds of a whole command, without its fit."""
    with tempfile.TemporaryDirectory() as place:
        words = [*RUN, *NETWORK, f"data.root={folder}", f"hydra.run.dir={place}/run"]
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "stagetune", "train", *words], check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
        return seconds - read_result(RunDir(Path(place) / "run")).timing["fit_seconds"]


if __name__ == "__main__":
    main()
