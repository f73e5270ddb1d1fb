"""One-shot runs of drawings: Omniglot's official ones, and all that an alphabet's drawers make.

Official are runNN/{class_labels.txt, training/class01..20.png, test/item01..20.png} (Lake, Salakhutdinov, Tenenbaum
2015): each test image is given the class of the nearest training image of its run, each by itself; a run's error is
the share that is wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from os.path import isfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.spatial.distance import cdist

from stagetune.errors import DataError
from stagetune.evaluation.oneshot import scores
from stagetune.evaluation.pairs import IntArray
from stagetune.evaluation.roc import BoolArray, FloatArray

Distances = Callable[
    [Sequence[Path], Sequence[Path]], FloatArray
]  # of test images and training images, [test, training]
DRAWS = 10_000
DRAWN = ("PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP")  # formats of drawings


@dataclass(frozen=True)
class Run:
    """The images of a run, and for each test image the position of its training image."""

    name: str
    training: list[Path]
    test: list[Path]
    truth: IntArray


def read_runs(folder: str | Path) -> list[Run]:
    """All runs of a folder. Raises `DataError` for what is missing, with the file and line."""
    root = Path(folder).expanduser()
    runs = [_read_run(root, path) for path in sorted(root.glob("run*/class_labels.txt"))]
    if not runs:
        raise DataError(f"{folder}: holds no runs; expected run01/class_labels.txt, run01/training/ and run01/test/")
    return runs


def _read_run(root: Path, labels: Path) -> Run:
    pairs = []
    try:
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{labels}: cannot be read ({error}); take it as its authors publish it") from error
    for line, text in enumerate(lines, start=1):
        words = text.split()
        if not words:
            continue
        files = [root / word for word in words]
        if len(files) != 2 or not all(map(isfile, files)):
            gone = ", ".join(str(file) for file in files if not isfile(file)) or "two files are needed"
            raise DataError(f"{labels}: line {line}: expected a test image and its training image ({gone})")
        pairs.append(files)
    if len(pairs) < 2:
        raise DataError(f"{labels}: has fewer than two lines")
    training = sorted({file for _, file in pairs})
    return Run(
        labels.parent.name,
        training,
        [file for file, _ in pairs],
        np.array([training.index(file) for _, file in pairs], dtype=np.int64),
    )


def drawer_runs(alphabet: str | Path, *, ways: int = 20) -> list[Run]:
    """A run for each ordered pair of drawers of <alphabet>/<character>/<number>_<drawer>.png; always the same ones.

    One drawer shows `ways` characters, or all where there are fewer, and the other's are to be told. A run is named
    by the two drawers. Raises `DataError` for a folder of anything else.
    """
    root = Path(alphabet).expanduser()
    drawn: dict[str, dict[str, Path]] = {}  # by drawer and character
    for path in sorted(root.glob("*/*_*.png")):
        drawn.setdefault(path.stem.rpartition("_")[2], {})[path.parent.name] = path
    runs: list[Run] = []
    for shows, asked in permutations(drawn, 2):
        both = sorted(drawn[shows].keys() & drawn[asked].keys())
        if len(both) > 1:
            chosen = np.random.default_rng([len(runs), 12]).permutation(both)[:ways]
            training, test = ([drawn[drawer][name] for name in chosen] for drawer in (shows, asked))
            runs.append(Run(f"{shows} {asked}", training, test, np.arange(len(chosen))))
    if not runs:
        raise DataError(
            f"{alphabet}: holds neither runs (run01/class_labels.txt) nor the characters of an alphabet by several "
            "drawers (character01/0001_01.png, character01/0001_02.png, ...)"
        )
    return runs


def errors(runs: Sequence[Run], distances: Distances) -> dict[str, float]:
    """The error of each run, by its name."""
    return {run.name: 1 - float(scores(distances(run.test, run.training), run.truth).mean()) for run in runs}


def mean_and_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float, float]:
    """Mean over runs, and a 95% interval by drawing runs anew."""
    rng = np.random.default_rng([seed, 8])
    found = np.asarray(values)
    means = found[rng.integers(0, len(found), (DRAWS, len(found)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(found.mean()), float(low), float(high)


def interval_over_drawers(values: dict[str, float], *, seed: int = 0) -> tuple[float, float, float]:
    """Mean of runs by pairs of drawers, and a 95% interval by drawing drawers anew, which pairs share."""
    names = sorted({drawer for name in values for drawer in name.split(" ")})
    place = {name: i for i, name in enumerate(names)}
    known, error = np.zeros((2, len(names), len(names)))
    for name, value in values.items():
        shows, asked = (place[drawer] for drawer in name.split(" "))
        known[shows, asked], error[shows, asked] = 1.0, value
    rng = np.random.default_rng([seed, 13])
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS).astype(float)
    pairs = np.einsum("ni,ij,nj->n", drawn, known, drawn)
    means = np.einsum("ni,ij,nj->n", drawn, error, drawn)[pairs > 0] / pairs[pairs > 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(np.mean(list(values.values()))), float(low), float(high)


def on_white(path: Path) -> npt.NDArray[np.uint8]:
    """A drawing as dark ink on light paper, gray [height, width], in whichever polarity, and mode, it is stored.

    Paper is what most pixels are. Raises `DataError` for an empty sheet, and for what cannot be read.
    """
    if not path.is_file():  # nor is a pipe waited for
        raise DataError(f"{path}: is no file")
    try:
        with Image.open(path, formats=DRAWN) as image:
            gray = np.array(_over_white(image).convert("L"))
    except Exception as error:  # Pillow's decoders raise many types for a damaged file
        why = " ".join(f"{error}".split())[:120] or type(error).__name__
        raise DataError(f"{path}: cannot be read as a drawing ({why})") from error
    if gray.min() == gray.max():
        raise DataError(f"{path}: is an empty sheet")
    return gray if (gray < _middle(gray)).mean() <= 0.5 else 255 - gray


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return image
    drawn = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)


def ink(path: Path) -> BoolArray:
    """Where the drawing is, [height, width]."""
    gray = on_white(path)
    return np.asarray(gray < _middle(gray))


def _middle(gray: npt.NDArray[np.uint8]) -> float:
    return (float(gray.min()) + float(gray.max())) / 2


def hausdorff(test: Sequence[Path], training: Sequence[Path]) -> FloatArray:
    """The modified Hausdorff distance (Dubuisson, Jain 1994) of centred ink, without any training.

    The mean distance from a point to the nearest of the other drawing, in both directions, the larger of the two.
    """
    shown, asked = [_centred(path) for path in training], [_centred(path) for path in test]
    found = np.empty((len(asked), len(shown)))
    for i, one in enumerate(asked):
        for j, other in enumerate(shown):
            apart = cdist(one, other)
            found[i, j] = max(apart.min(axis=1).mean(), apart.min(axis=0).mean())
    return found


def _centred(path: Path) -> FloatArray:
    points = np.argwhere(ink(path)).astype(np.float64)
    return np.asarray(points - points.mean(axis=0), dtype=np.float64)
