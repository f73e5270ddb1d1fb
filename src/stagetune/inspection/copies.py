"""Which images are the same picture: exactly, or nearly, as after saving, resizing, brightening or cropping one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from stagetune.data.groups import joined
from stagetune.inspection.looks import SMALL, GrayArray

MOST_BITS = 12  # of 64 in which the hashes of a candidate pair differ
LEAST_COSINE = 0.9  # between the features of a candidate pair
NEAREST = 5  # candidates of an image by the cosine
SAME = 0.97  # correlation of two small gray pictures from which they count as one
CLEARLY = 0.4  # of the distance to what is most alike beside a copy: the distance at which it may be
HOPELESS = 0.4  # correlation as they are, below which no crop is tried
CROPS = 10  # candidates of an image at most of which crops are tried
CROPPED = (0.97, 0.95, 0.92, 0.9)  # shares of the sides that a crop may have left
TOGETHER = 10  # copies of one image that may be beside it; where more are as alike, all show one scene
COMPARED = 16  # pixels a side at which pictures are compared
LEAST_CONTRAST = 2.0  # standard deviation in gray values; a picture with less has nothing to compare
AT_ONCE = 4096  # rows of a block of comparisons

FloatArray = npt.NDArray[np.floating]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Copies:
    """Images that are one picture.

    Attributes:
        images: their indices, rising.
        likeness: the mean correlation of the gray values of the pairs that are alike.
        is_exact: whether they are the same pixels.
    """

    images: tuple[int, ...]
    likeness: float
    is_exact: bool = False


def exact_copies(contents: Sequence[str]) -> list[Copies]:
    """The images that have the same content, together."""
    found: dict[str, list[int]] = {}
    for index, content in enumerate(contents):
        found.setdefault(content, []).append(index)
    return [Copies(tuple(images), 1.0, is_exact=True) for images in found.values() if len(images) > 1]


def near_copies(
    small: GrayArray, contents: Sequence[str], shorter: IntArray, features: FloatArray | None = None
) -> list[Copies]:
    """Images that are nearly the same picture, together, most alike first; of exact copies the first stands for all.

    Candidates are pairs whose perceptual hashes differ in at most 12 of 64 bits and, where there are features, the
    five nearest images by their cosine, if it is at least 0.9. A candidate counts if the gray values of both, at
    16 pixels a side, have a correlation of at least 0.97, as they are or with 3 to 10% of the sides of one of them
    cropped, and if that is far nearer to 1 (0.4 of the way) than the correlation with any image but the ten nearest
    copies: drawings of a few strokes, filled forms and what one camera sees day after day are all much alike.

    Args:
        small: [n, 32, 32], the gray pictures.
        contents: [n], of each image.
        shorter: [n], pixels of the shorter side. A picture of less than 16 is compared with none, since too little is
            in it; of less than 32 no crops are tried.
        features: [n, d].
    """
    is_first = np.zeros(len(contents), dtype=bool)
    is_first[np.unique(np.array(contents), return_index=True)[1]] = True
    kept = np.flatnonzero(
        is_first & (shorter >= COMPARED) & (small.reshape(len(small), -1).std(axis=1) >= LEAST_CONTRAST)
    )
    gray = small[kept]
    plain = _standardised(_views(gray, _windows()[:1])[:, 0])
    blocks = list(_by_hash(perceptual_hash(gray)))
    if features is not None:
        blocks.append(_by_features(features[kept]))
    codes = [first * len(kept) + second for first, second in blocks]  # a pair as one number
    first, second = np.divmod(np.unique(np.concatenate(codes)), len(kept)) if codes else (kept[:0], kept[:0])
    likeness = _correlations(plain, first, second)
    open_ = (
        (likeness < SAME)
        & (likeness >= HOPELESS)
        & (shorter[kept][first] >= SMALL)
        & (shorter[kept][second] >= SMALL)
    )
    tried = np.flatnonzero(open_)[_most_alike(likeness[open_], first[open_])]
    for chunk in np.array_split(tried, max(1, len(tried) // 256)):
        a, b = (_standardised(_views(gray[side[chunk]], _windows())) for side in (first, second))
        best = np.maximum(np.einsum("nwd,nd->nw", a, b[:, 0]), np.einsum("nwd,nd->nw", b, a[:, 0])).max(axis=1)
        likeness[chunk] = np.maximum(likeness[chunk], best)
    same = likeness >= SAME
    first, second, likeness = first[same], second[same], likeness[same]
    others = np.maximum(*(_next_alike(plain, side, first, second) for side in (first, second)))
    clear = 1 - likeness <= CLEARLY * (1 - others)
    links = [(int(kept[a]), int(kept[b])) for a, b in zip(first[clear], second[clear], strict=True)]
    root = joined(len(small), links)
    together: dict[int, tuple[set[int], list[float]]] = {}
    for pair, value in zip(links, likeness[clear].tolist(), strict=True):
        images, values = together.setdefault(root[pair[0]], (set(), []))
        images.update(pair)
        values.append(min(value, 1.0))
    found = [Copies(tuple(sorted(images)), float(np.mean(values))) for images, values in together.values()]
    return sorted(found, key=lambda one: -one.likeness)


def perceptual_hash(gray: GrayArray) -> npt.NDArray[np.uint64]:
    """64 bits of each small picture [n, 32, 32]: which of its lowest frequencies are above their median (pHash)."""
    steps = np.arange(SMALL)
    waves = np.cos(np.pi * np.arange(8)[:, None] * (2 * steps + 1) / (2 * SMALL))  # of the discrete cosine transform
    low = (waves @ gray.astype(np.float32) @ waves.T).reshape(len(gray), 64)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)  # the first is how light it is
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _by_hash(hashes: npt.NDArray[np.uint64]) -> Iterator[tuple[IntArray, IntArray]]:
    """Candidate pairs, first < second, a block of rows at a time."""
    for start in range(0, len(hashes), AT_ONCE // 8):
        rows = hashes[start : start + AT_ONCE // 8]
        first, second = np.nonzero(np.bitwise_count(rows[:, None] ^ hashes[None, start:]) <= MOST_BITS)
        above = first < second
        yield first[above] + start, second[above] + start


def _by_features(features: FloatArray) -> tuple[IntArray, IntArray]:
    """Candidate pairs, first < second: of each image those that are nearest."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.where(length > 0, length, 1)).astype(np.float32)
    count = min(NEAREST, len(unit) - 1)
    if count < 1:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    pairs = []
    for start in range(0, len(unit), AT_ONCE // 4):
        cosine = unit[start : start + AT_ONCE // 4] @ unit.T
        rows = np.arange(len(cosine))
        cosine[rows, rows + start] = -1  # itself
        near = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
        row, column = np.nonzero(np.take_along_axis(cosine, near, axis=1) >= LEAST_COSINE)
        pairs.append(np.stack([row + start, near[row, column]]))
    both = np.concatenate(pairs, axis=1)
    return both.min(axis=0), both.max(axis=0)


def _most_alike(likeness: FloatArray, first: IntArray) -> IntArray:
    """Positions of the pairs of each first image that are most alike, `CROPS` of it at most."""
    order = np.lexsort((-likeness, first))
    ranks = np.arange(len(order)) - np.searchsorted(first[order], first[order])
    return order[ranks < CROPS]


def _next_alike(values: FloatArray, images: IntArray, first: IntArray, second: IntArray) -> FloatArray:
    """Of each of the images the highest correlation with one that is no copy of it, or the eleventh such copy."""
    rows, back = np.unique(images, return_inverse=True)
    highest = np.zeros(len(rows))
    for start in range(0, len(rows), AT_ONCE // 4):
        block = slice(start, start + AT_ONCE // 4)
        own = rows[block]
        found = values[own] @ values.T
        for one, other in ((first, second), (second, first)):
            inside = np.isin(one, own)
            cell = np.searchsorted(own, one[inside]), other[inside]
            found[cell] = np.where(found[cell] < SAME, -1, found[cell])  # a copy that is cropped
        if found.shape[1] > TOGETHER + 1:  # it itself, too
            highest[block] = np.partition(found, -TOGETHER - 2, axis=1)[:, -TOGETHER - 2]
        found[found >= SAME] = -1
        highest[block] = np.maximum(highest[block], found.max(axis=1))
    return np.asarray(highest[back])


@cache
def _windows() -> FloatArray:
    """[37, 2, 16, 32]: what reads 16 rows, and 16 columns, of a part of a small picture; the first is all of it."""

    def reads(start: float, length: float) -> FloatArray:
        edges = start + length * np.arange(COMPARED + 1) / COMPARED
        overlap = np.minimum(edges[1:, None], np.arange(SMALL) + 1) - np.maximum(edges[:-1, None], np.arange(SMALL))
        shares = overlap.clip(0)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    found = [(reads(0, SMALL), reads(0, SMALL))]
    for share in CROPPED:
        along = [reads(at * SMALL * (1 - share), SMALL * share) for at in (0.0, 0.5, 1.0)]
        found += [(rows, columns) for rows in along for columns in along]
    return np.array(found, dtype=np.float32)


def _views(gray: GrayArray, windows: FloatArray) -> FloatArray:
    """[n, windows, 256]: those parts of the small pictures, at the size at which they are compared."""
    seen = windows[:, 0] @ gray[:, None].astype(np.float32) @ windows[:, 1].transpose(0, 2, 1)
    return np.asarray(seen.reshape(len(gray), len(windows), COMPARED**2))


def _standardised(values: FloatArray) -> FloatArray:
    """Along the last axis mean 0 and length 1, so that products are correlations."""
    values = values - values.mean(axis=-1, keepdims=True)
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-6))


def _correlations(values: FloatArray, first: IntArray, second: IntArray) -> FloatArray:
    starts = range(0, len(first), AT_ONCE)
    chunks = [slice(start, start + AT_ONCE) for start in starts]
    found = [(values[first[chunk]] * values[second[chunk]]).sum(axis=1) for chunk in chunks]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)
