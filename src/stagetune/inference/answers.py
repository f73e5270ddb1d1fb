"""What a model answers, as values that a program reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The class of an image.

    Attributes:
        image: its path, or which of those given it is.
        label: the class of the highest score.
        probability: of that class, as calibrated in validation.
        is_unknown: whether the probability is below the one at which validation calls an answer "unknown".
        top: the classes of the highest probabilities and these, highest first.
    """

    image: str
    label: str
    probability: float
    is_unknown: bool
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Verification:
    """Whether two images are of one identity.

    Attributes:
        is_same: whether their distance is at most the threshold.
        distance: between their embeddings.
        probability: that they are of one identity, where as many pairs are as are not.
        threshold: that of validation.
        far: the share of pairs of two identities that validation called the same at this threshold.
    """

    is_same: bool
    distance: float
    probability: float
    threshold: float
    far: float


@dataclass(frozen=True)
class Candidate:
    """An identity of a gallery, as far as it is from an image.

    Attributes:
        identity: its name.
        distance: of its nearest image, or of the mean of its images.
        probability: that the two are of one identity, where as many pairs are as are not.
        image: the one of the gallery that is nearest; empty for a mean.
    """

    identity: str
    distance: float
    probability: float
    image: str


@dataclass(frozen=True)
class Identification:
    """Who or what an image shows.

    Attributes:
        image: its path, or which of those given it is.
        identity: the nearest in the gallery; None, "unknown", where it is further than the threshold.
        top: the nearest identities, each once, nearest first.
    """

    image: str
    identity: str | None
    top: tuple[Candidate, ...]

    @property
    def is_unknown(self) -> bool:
        """Whether no identity of the gallery is near enough."""
        return self.identity is None
