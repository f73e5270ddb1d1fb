"""A gallery: embeddings of images whose identities are known, to look up those of others in. No torch."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stagetune.errors import DataError, did_you_mean
from stagetune.inference.gallery_files import DISTANCES, Header, locked, others, read, state, write
from stagetune.inference.gallery_rows import Rows, checked, matrix
from stagetune.inference.search import nearest


@dataclass(frozen=True)
class Match:
    """An identity that a query may be.

    Args:
        identity: its name.
        distance: how far the query is from it.
        image: the nearest of its images; where the mean is compared, its first one.
    """

    identity: str
    distance: float
    image: str


class Gallery:
    """Identities, each with one image or several, and the embedding of each image; kept in a folder.

    What is added or removed is kept by `save`, which also takes up what other processes have saved in the meantime.

    Attributes:
        folder: where it is kept.
        model: the key of the model that made its vectors.
        distance: by which they are compared.
        dimensions: of each vector.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> gallery = Gallery.create(folder, model="7f2c", distance="euclidean", dimensions=2)
        >>> gallery.add(["ada", "bob"], [[1, 0], [0, 1]], ["ada/1.png", "bob/1.png"])
        []
        >>> gallery.save()
        >>> Gallery.open(folder).search([[0.8, 0.6]], k=1)
        [[Match(identity='ada', distance=0.6324555277824402, image='ada/1.png')]]
    """

    def __init__(self, folder: Path, header: Header, rows: Rows, state: str | None) -> None:
        self.folder, self.model = folder, header.model
        self.distance, self.dimensions = header.distance, header.dimensions
        self._header, self._rows, self._state = header, rows, state
        self._changes: list[Callable[[Rows], Rows]] = []  # since it was read

    @classmethod
    def create(cls, folder: str | os.PathLike[str], *, model: str, distance: str, dimensions: int) -> "Gallery":
        """An empty one, of which nothing is written before `save`.

        Args:
            folder: where it will be; empty or not there yet.
            model: the key of the model that makes its vectors.
            distance: by which they are compared: "euclidean", "squared", "cosine" or "weighted_l1".
            dimensions: of each vector.

        Raises:
            DataError: where the folder holds something, or there is no such distance.
        """
        folder = Path(folder).expanduser()
        if distance not in DISTANCES:
            raise DataError(f"distance={distance}: {did_you_mean(distance, DISTANCES)}")
        if found := others(folder):
            raise DataError(f"{folder}: already holds {found[0]}; give a new folder, or add to the gallery in it")
        nothing = Rows((), (), np.empty((0, dimensions), np.float32))
        return cls(folder, Header(model, distance, dimensions), nothing, None)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Gallery":
        """The one that is kept in a folder.

        Raises:
            DataError: where there is none, or none that is whole.
        """
        folder = Path(folder).expanduser()
        return cls(folder, *read(folder))

    def __len__(self) -> int:
        """How many images it holds."""
        return len(self._rows)

    def identities(self) -> dict[str, int]:
        """How many images there are of each identity, that of the first image first."""
        return dict(Counter(self._rows.identities))

    def add(self, identities: Sequence[str], vectors: Any, images: Sequence[str]) -> list[str]:
        """Add images; one that its identity has already keeps its place and gets the new vector.

        Args:
            identities: whose images they are, [n].
            vectors: their embeddings, [n, dimensions].
            images: their names, [n]: paths relative to the folder that they come from, or any other names.

        Returns:
            The images that were there already.

        Raises:
            DataError: where these do not belong together, or a vector is not finite; nothing is added then.
        """
        more = checked(identities, images, vectors, self.dimensions)
        known = set(self._rows.pairs())
        self._change(lambda rows: rows.added(more))
        return [image for identity, image in more.pairs() if (identity, image) in known]

    def remove(self, names: Collection[str]) -> int:
        """Remove identities with all their images, or single images, by their names.

        Returns:
            How many images that were.

        Raises:
            DataError: for a name that is neither; nothing is removed then.
        """
        known = {*self._rows.identities, *self._rows.images}
        for name in names:
            if name not in known:
                hint = did_you_mean(name, self._rows.names) if known else "it is empty"
                raise DataError(f"{name}: no identity or image of the gallery {self.folder} is called so; {hint}")
        before, gone = len(self), frozenset(names)
        self._change(lambda rows: rows.removed(gone))
        return before - len(self)

    def save(self) -> None:
        """Keep it in its folder. Whatever happens meanwhile, the old gallery or the new one is there, whole.

        If another process has saved since this one was read, the changes are made once more, to what that one saved.

        Raises:
            DataError: where the folder holds a gallery now that this one cannot be added to.
            ResultError: where the folder cannot be written to.
        """
        with locked(self.folder):
            if self._state != state(self.folder):
                self._rows = self._changed_meanwhile()
            self._state = write(self.folder, self._header, self._rows)
        self._changes = []

    def search(
        self, queries: Any, k: int, *, per_identity: Literal["nearest", "mean"] = "nearest"
    ) -> list[list[Match]]:
        """The k identities that are nearest to each query, the nearest first, each once.

        Args:
            queries: embeddings [m, dimensions].
            k: how many are wanted; where there are fewer, all are given.
            per_identity: what counts of an identity: its "nearest" image, or the "mean" of its vectors, brought to
                length 1 where the distance is of vectors of that length. Of equal distances the identity comes
                first whose first image does.

        Raises:
            DataError: where a query is not finite or of other dimensions, and for another `k` or `per_identity`.
        """
        if k < 1:
            raise DataError(f"k={k}: give 1 or more")
        if per_identity not in ("nearest", "mean"):
            raise DataError(f"per_identity={per_identity}: choose nearest or mean")
        asked = matrix(queries, self.dimensions, [f"query {number}" for number in range(len(queries))])
        kept = self._rows
        if per_identity == "nearest":
            places, distances = nearest(asked, kept.searched, k, self.distance)
        else:
            means = kept.means if self.distance == "weighted_l1" else kept.directions
            names, distances = nearest(asked, means, k, self.distance)
            places = kept.firsts[names]
        return [
            [Match(kept.identities[at], distance, kept.images[at]) for at, distance in zip(*row, strict=True)]
            for row in zip(places.tolist(), distances.tolist(), strict=True)
        ]

    def check_model(self, key: str, what: str) -> None:
        """Raise a `DataError` if a model of that key, which a person knows as `what`, has not made this gallery."""
        if key != self.model:
            raise DataError(
                f"{self.folder}: was built by another model ({self.model[:12]}) than {what} ({key[:12]}), whose "
                "embeddings say nothing beside its own; build a gallery with this model, or give the other one"
            )

    def _change(self, change: Callable[[Rows], Rows]) -> None:
        self._rows = change(self._rows)
        self._changes.append(change)

    def _changed_meanwhile(self) -> Rows:
        """What another process has saved, with the changes of this one."""
        header, rows, _ = read(self.folder)
        if self._state is None or header != self._header:
            raise DataError(f"{self.folder}: holds another gallery by now; open that one, or give another folder")
        for change in self._changes:
            rows = change(rows)
        return rows
