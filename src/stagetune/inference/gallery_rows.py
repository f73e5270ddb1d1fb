"""What a gallery holds: a vector per image, and whose image it is. No torch."""

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from stagetune.errors import DataError
from stagetune.inference.search import Float32, Places, Vectors

UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # would act on a terminal, or have no bytes in a file
OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)")  # on any system


@dataclass(frozen=True, eq=False)
class Rows:
    """The images of a gallery in the order in which they came; nothing here changes.

    Args:
        identities: of each image, [n].
        images: their names, relative to the folder that they came from, [n]; one identity has each once.
        vectors: [n, d].
    """

    identities: tuple[str, ...]
    images: tuple[str, ...]
    vectors: Float32

    def __len__(self) -> int:
        return len(self.images)

    def pairs(self) -> Iterator[tuple[str, str]]:
        return zip(self.identities, self.images, strict=True)

    def added(self, more: "Rows") -> "Rows":
        """With more of them at the end; an image that its identity has already gets the new vector in its place."""
        places = {pair: place for place, pair in enumerate(self.pairs())}
        at = [places.setdefault(pair, len(places)) for pair in more.pairs()]
        vectors = np.empty((len(places), self.vectors.shape[1]), np.float32)
        vectors[: len(self)] = self.vectors
        vectors[at] = more.vectors  # of two vectors for one place the later one
        return Rows(tuple(identity for identity, _ in places), tuple(image for _, image in places), vectors)

    def removed(self, names: Collection[str]) -> "Rows":
        """Without what is called so: all images of an identity, or one image of any identity."""
        gone = set(names)
        kept = [place for place, pair in enumerate(self.pairs()) if gone.isdisjoint(pair)]
        return Rows(
            tuple(self.identities[place] for place in kept),
            tuple(self.images[place] for place in kept),
            self.vectors[kept],
        )

    @cached_property
    def names(self) -> list[str]:
        """Each identity once, that of the first image first."""
        return list(dict.fromkeys(self.identities))

    @cached_property
    def groups(self) -> Places:
        """Of each image the number of its identity among the names, [n]."""
        number = {name: place for place, name in enumerate(self.names)}
        return np.fromiter((number[name] for name in self.identities), np.int64, len(self))

    @cached_property
    def firsts(self) -> Places:
        """The first image of each identity, in the order of the names."""
        firsts: Places = np.unique(self.groups, return_index=True)[1]
        return firsts

    @cached_property
    def searched(self) -> Vectors:
        """The vectors as the search takes them, grouped by identity."""
        return Vectors(self.vectors, self.groups)

    @cached_property
    def means(self) -> Float32:
        """The mean vector of each identity, in the order of the names."""
        columns = [np.bincount(self.groups, column, len(self.names)) for column in self.vectors.T]
        means: Float32 = (np.stack(columns, axis=1) / np.bincount(self.groups)[:, None]).astype(np.float32)
        return means

    @cached_property
    def directions(self) -> Float32:
        """The means at length 1; one of no length stays so."""
        means = self.means.astype(np.float64)
        directions: Float32 = (means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)).astype(np.float32)
        return directions


def checked(identities: Sequence[str], images: Sequence[str], vectors: Any, dimensions: int) -> Rows:
    """Rows that a gallery can take up.

    Raises:
        DataError: where they do not belong together, or one of them cannot be kept.
    """
    if len(identities) != len(images):
        raise DataError(f"{len(identities)} identities for {len(images)} images; give one for each")
    array = matrix(vectors, dimensions, images)
    for identity, image in zip(identities, images, strict=True):
        check_pair(identity, image)
    return Rows(tuple(identities), tuple(images), array)


def check_pair(identity: str, image: str) -> None:
    """Raise `DataError` where an identity and an image of it cannot be called so."""
    if problem := name_problem(identity):
        raise DataError(f"the identity {identity!r} {problem}")
    if problem := image_problem(image):
        raise DataError(f"the image {image!r} {problem}")


def matrix(vectors: Any, dimensions: int, names: Sequence[str]) -> Float32:
    """Vectors [n, d] of so many dimensions, one for each name, all finite.

    Raises:
        DataError: otherwise; a vector that is not finite by its name.
    """
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(vectors, np.float32)
    if array.shape != (len(names), dimensions):
        raise DataError(f"vectors of shape {list(array.shape)} were given, needed are [{len(names)}, {dimensions}]")
    if wrong := not_finite(array):
        more = f", and {len(wrong) - 1} more are not" if wrong[1:] else ""
        raise DataError(
            f"{names[wrong[0]]}: its vector is not finite{more}; look at the image and at the weights of the model"
        )
    return array


def not_finite(vectors: Float32) -> list[int]:
    """Places of vectors that hold a NaN or an infinity, which a sum in float64 keeps."""
    with np.errstate(invalid="ignore"):
        places: list[int] = np.flatnonzero(~np.isfinite(vectors.sum(axis=1, dtype=np.float64))).tolist()
    return places


def name_problem(name: str) -> str | None:
    """Why an identity or an image cannot be called so; None if it can."""
    if not name.strip():
        return "is an empty name; give it one"
    if UNSHOWABLE.search(name):
        return "has a character that cannot be shown; rename it"
    return None


def image_problem(image: str) -> str | None:
    """Why an image cannot be called so; None if it can. Its name may lead nowhere outside the folder it came from."""
    if OUTSIDE.search(image):
        return "leads out of the folder; give a path relative to it"
    return name_problem(image)
