"""A trained model as it is used: on any runtime, with its transform, classes and threshold."""

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stagetune.errors import DataError, WeightsError
from stagetune.evaluation.calibration import Calibration
from stagetune.inference.answers import Candidate, Identification, Prediction, Verification
from stagetune.inference.description import Description
from stagetune.inference.images import Images, batched, prepared
from stagetune.inference.runtimes import Runtime
from stagetune.inference.transform import OneImage, Transform
from stagetune.models.distances import measure

if TYPE_CHECKING:
    from stagetune.inference.gallery import Gallery

Vector = npt.NDArray[np.float32]
T = TypeVar("T")
PerIdentity = Literal["nearest", "mean"]
BATCH = 32
AHEAD = 2  # batches that are decoded while one is computed


class TrainedModel:
    """A model in eval mode with all that is needed to use it.

    Args:
        runtime: computes its outputs.
        description: what it says of itself.
        batch_size: images that are computed together; an answer does not depend on it.

    Attributes:
        transform: makes of an image what a call takes one of.
        classes: their names, in the order of a classifier's scores.
        threshold: of a siamese run, the distance up to which two images count as the same; None for a classifier.
        calibration: how distances, or scores, become probabilities; see `evaluation/calibration` and `confidence`.
        provenance: where it comes from: experiment, seed, model, weights it began with.
    """

    def __init__(self, runtime: Runtime, description: Description, *, batch_size: int = BATCH) -> None:
        if batch_size < 1:
            raise WeightsError(f"batch_size={batch_size}: give 1 or more")
        self.runtime, self.description, self.batch_size = runtime, description, batch_size
        self.transform = Transform(description.preprocessing)
        self.classes = description.classes
        self.calibration, self.provenance = description.calibration, description.provenance
        self.threshold: float | None = (self.calibration or {}).get("threshold")

    @cached_property
    def dimensions(self) -> int:
        """How many numbers an embedding has."""
        return int(self.embed(np.zeros((1, 1, 3), np.uint8)).shape[1])

    def __call__(self, images: Tensor | npt.NDArray[np.uint8]) -> Tensor:
        """Scores, or embeddings, of images that are prepared.

        Args:
            images: uint8 [n, 3, image_size, image_size], as `transform` gives them.

        Returns:
            Of a classifier the scores before softmax [n, classes], of a siamese run the embeddings [n, dimensions].

        Raises:
            DataError: for anything else: one runtime would cast it, another compute what means nothing.
        """
        given = images.cpu().numpy() if isinstance(images, Tensor) else images
        side = self.description.preprocessing.image_size
        shape = (getattr(given, "dtype", None), *getattr(given, "shape", ())[1:])
        if shape != (np.uint8, 3, side, side) or len(given) == 0:
            said = f" of shape {list(given.shape)} and {given.dtype}" if isinstance(given, np.ndarray) else ""
            raise DataError(
                f"{type(images).__name__}{said}: a model is called with uint8 [n, 3, {side}, {side}], as "
                "model.transform gives them; what is no such batch goes to predict, verify or embed"
            )
        return torch.from_numpy(self.runtime(given)[self.description.outputs[0]])

    def predict(self, images: Images, top_k: int = 5, *, on_error: str = "raise") -> list[Prediction]:
        """The class of each image.

        Args:
            images: one, or several: paths, PIL images, uint8 arrays [height, width, 3] or tensors [3, height, width].
                A folder stands for all images in it.
            top_k: how many classes are listed.
            on_error: raise, or skip what cannot be read as an image.

        Returns:
            An answer for each image, in their order.

        Raises:
            WeightsError: where the model is no classifier.
            DataError: for what is no image, or cannot be read.
        """
        return list(_answered(self.predictions(images, top_k), on_error))

    def predictions(self, images: Images, top_k: int = 5) -> "Iterator[Prediction | DataError]":
        """`predict`, one after the other; what cannot be read is given as its error."""
        self._must_be("classifier", "predict")
        if top_k < 1:
            raise DataError(f"top_k={top_k}: give 1 or more")
        confidence = self.description.confidence()
        for name, scores in self.outputs(images, "scores"):
            if isinstance(scores, DataError):
                yield scores
                continue
            if len(scores) != len(self.classes):
                raise WeightsError(
                    f"the model gives {len(scores)} scores and says that it has {len(self.classes)} classes; "
                    "export it again"
                )
            probability = confidence.probabilities(scores[None].astype(np.float64))[0]
            order = np.argsort(-probability, kind="stable")[:top_k].tolist()
            top = tuple((self.classes[i], float(probability[i])) for i in order)
            label, surely = self.classes[int(probability.argmax())], float(probability.max())
            is_unknown = confidence.unknown is not None and surely < confidence.unknown
            yield Prediction(name, label, surely, is_unknown, top)

    def verify(self, first: OneImage, second: OneImage) -> Verification:
        """Whether two images are of one identity.

        Args:
            first: an image, see `predict`.
            second: the other.

        Raises:
            WeightsError: where the model is no siamese run's.
            DataError: for what is no image, or cannot be read.
        """
        fitted = self._sameness("verify")
        for one in (first, second):
            if isinstance(one, str | os.PathLike) and os.path.isdir(Path(one).expanduser()):
                raise DataError(f"{one}: is a folder; verify compares two images, and embed takes folders")
        one, other = torch.from_numpy(self.embed([first, second]))
        distance = float(measure(one.double() - other.double(), self.description.distance or ""))
        probability = float(fitted.probability(distance))
        return Verification(distance <= fitted.threshold, distance, probability, fitted.threshold, fitted.far)

    def embed(self, images: Images, *, on_error: str = "raise") -> Vector:
        """The embedding of each image, or of a classifier the features below its head.

        Args:
            images: see `predict`.
            on_error: raise, or skip what cannot be read as an image.

        Returns:
            float32 [n, dimensions].

        Raises:
            DataError: for what is no image, or cannot be read.
        """
        rows = list(_answered((row for _, row in self.embeddings(images)), on_error))
        return np.stack(rows) if rows else np.empty((0, self.dimensions), np.float32)

    def embeddings(self, images: Images) -> "Iterator[tuple[str, Vector | DataError]]":
        """`embed`, one after the other with the names of the images; what cannot be read is given as its error."""
        return self.outputs(images, self.description.outputs[-1])

    def identify(
        self,
        queries: Images,
        gallery: "Gallery | str | os.PathLike[str]",
        k: int = 5,
        *,
        per_identity: PerIdentity = "nearest",
        on_error: str = "raise",
    ) -> list[Identification]:
        """Who or what each image shows, of those in a gallery.

        Args:
            queries: see `predict`.
            gallery: or its folder.
            k: how many identities are listed.
            per_identity: how far an identity is: by its nearest image, or by the mean of its images.
            on_error: raise, or skip what cannot be read as an image.

        Returns:
            An answer for each image, in their order.

        Raises:
            WeightsError: where the model is no siamese run's.
            DataError: for what is no image, or cannot be read, and for a folder that is no gallery, or one of another
                model.
        """
        found = self.identifications(queries, gallery, k, per_identity=per_identity)
        return list(_answered(found, on_error))

    def identifications(
        self,
        queries: Images,
        gallery: "Gallery | str | os.PathLike[str]",
        k: int = 5,
        *,
        per_identity: PerIdentity = "nearest",
    ) -> "Iterator[Identification | DataError]":
        """`identify`, one after the other; what cannot be read is given as its error."""
        from stagetune.inference.gallery import Gallery

        fitted = self._sameness("identify")
        known = gallery if isinstance(gallery, Gallery) else Gallery.open(gallery)
        known.check_model(self.description.key, "this one")
        for rows in batched(self.embeddings(queries), self.batch_size):
            vectors = [row for _, row in rows if not isinstance(row, DataError)]
            answers = iter(known.search(np.stack(vectors), k, per_identity=per_identity) if vectors else [])
            for name, row in rows:
                if isinstance(row, DataError):
                    yield row
                    continue
                top = tuple(
                    Candidate(one.identity, one.distance, float(fitted.probability(one.distance)), one.image)
                    for one in next(answers)
                )
                is_near = bool(top) and top[0].distance <= fitted.threshold
                yield Identification(name, top[0].identity if is_near else None, top)

    def outputs(self, images: Images, output: str) -> "Iterator[tuple[str, Vector | DataError]]":
        """One output of each image with the image's name, in order; what cannot be read is given as its error.

        Args:
            images: see `predict`.
            output: a name among the description's `outputs`.
        """
        for batch in batched(prepared(images, self.transform, ahead=AHEAD * self.batch_size), self.batch_size):
            pixels = [one.pixels.numpy() for one in batch if isinstance(one.pixels, Tensor)]
            rows: Iterator[Vector] = iter(self.runtime(np.stack(pixels))[output] if pixels else [])
            for one in batch:
                if isinstance(one.pixels, DataError):
                    yield one.name, one.pixels
                    continue
                row = next(rows)
                if not np.isfinite(row).all():
                    raise WeightsError(f"{one.name}: the model's {output} are no finite numbers; use other weights")
                yield one.name, row

    def _sameness(self, verb: str) -> Calibration:
        self._must_be("siamese", verb)
        return self.description.sameness()

    def _must_be(self, task: str, verb: str) -> None:
        if self.description.task != task:
            own = self.description.task
            instead = "predict and embed" if own == "classifier" else "verify, identify and embed"
            raise WeightsError(f"{verb}: is for a model of task={task}, and this one is of task={own}; use {instead}")


def _answered(answers: Iterable[T | DataError], on_error: str) -> Iterator[T]:
    """Those that are no errors, which are raised unless they are to be skipped."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error}: choose raise or skip")
    for answer in answers:
        if not isinstance(answer, DataError):
            yield answer
        elif on_error == "raise":
            raise answer
