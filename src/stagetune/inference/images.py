"""Images one after the other, decoded by threads beside what is computed of them."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from stagetune.data.formats import is_image
from stagetune.errors import DataError
from stagetune.inference.transform import OneImage, Transform

Images = OneImage | Iterable[OneImage]
T = TypeVar("T")


@dataclass(frozen=True)
class Prepared:
    """An image as the network takes it, or why there is none.

    Attributes:
        name: its path, or which of those given it is.
        pixels: uint8 [3, size, size].
    """

    name: str
    pixels: Tensor | DataError


def prepared(images: Images, transform: Transform, *, ahead: int) -> Iterator[Prepared]:
    """The images in their order; up to `ahead` of them are decoded while others are computed.

    Raises:
        DataError: for what is neither an image nor something that gives images. What cannot be read is given as such.
    """
    pool = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
    waiting: deque[tuple[str, Future[Tensor | DataError]]] = deque()
    try:
        for name, image in named(images):
            waiting.append((name, pool.submit(_attempt, transform, name, image)))
            if len(waiting) > ahead:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def named(images: Images) -> Iterator[tuple[str, OneImage]]:
    """Each image with its path, or which one it is; of a folder all that lie in it, in the order of their paths.

    Raises:
        DataError: for a folder without images, and for what gives none.
    """
    if isinstance(images, str | os.PathLike):
        yield from _of_path(images)
        return
    if is_one(images):
        yield "the image", images  # type: ignore[misc]
        return
    if not isinstance(images, Iterable):
        raise DataError(f"{type(images).__name__}: gives no images; give an image, a folder, or several of them")
    for number, image in zip(count(), images, strict=False):
        if isinstance(image, str | os.PathLike):
            yield from _of_path(image)
        else:
            yield f"image {number}", image


def is_one(images: Any) -> bool:
    """Whether this is one image, or what was meant as one; not several, nor a path."""
    if isinstance(images, np.ndarray | Tensor):
        return images.ndim < 4
    return isinstance(images, Image.Image)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last with what is left."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def _of_path(given: str | os.PathLike[str]) -> Iterator[tuple[str, OneImage]]:
    if not os.fspath(given):
        raise DataError("an empty path was given; give that of an image, or . for this folder")
    path = Path(given).expanduser()
    if not os.path.isdir(path):  # nor where it may not be looked at: reading it says why
        yield str(given), path
        return
    found = sorted(_within(path))
    if not found:
        raise DataError(f"{given}: is a folder without images")
    for inner in found:
        yield str(inner), inner


def _within(folder: Path) -> Iterator[Path]:
    """All images in a folder and in those that its links lead to, each once, and the folders that cannot be read."""
    unreadable: list[OSError] = []
    seen = set()
    for inner, folders, files in os.walk(folder, onerror=unreadable.append, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if (real := os.path.realpath(inner)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from filter(is_image, (Path(inner, name) for name in files))
    yield from (Path(error.filename) for error in unreadable)


def _attempt(transform: Transform, name: str, image: OneImage) -> Tensor | DataError:
    try:
        return transform(image)
    except DataError as error:
        return error if isinstance(image, str | os.PathLike) else DataError(f"{name}: {error}")


def _next(waiting: "deque[tuple[str, Future[Tensor | DataError]]]") -> Prepared:
    name, pixels = waiting.popleft()
    return Prepared(name, pixels.result())
