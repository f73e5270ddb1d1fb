"""What lies within result.json, as far as it is read: other keys may stand beside these. No torch."""

from typing import Any, NotRequired, TypedDict


class Best(TypedDict):
    """The epoch of the best model."""

    epoch: int
    stage: str
    metric: str
    mode: str
    value: float
    checkpoint: str


class Failure(TypedDict):
    """What a run has failed with."""

    type: str
    message: str


class Interval(TypedDict):
    """A share with its 95% interval."""

    value: float
    low: float
    high: float


class Class(TypedDict):
    """One class of a test; shares are None where there is nothing to take a share of."""

    name: str
    images: int
    answered: int
    recall: float | None
    recall_low: float | None
    recall_high: float | None
    precision: float | None
    f1: float


class Confusion(TypedDict):
    """Two classes of which one is taken for the other."""

    label: str
    answer: str
    count: int
    share: float


class Mistake(TypedDict):
    """An image that was answered wrong."""

    image: str
    label: str
    answer: str
    probability: float


Majority = TypedDict("Majority", {"class": str, "accuracy": float})


class Classification(TypedDict):
    """The answers of a test, see `evaluation/classification`."""

    interval_over: str
    units: int
    accuracy: Interval
    balanced_accuracy: Interval
    majority: Majority
    classes: list[Class]
    confused: list[Confusion]
    mistakes: list[Mistake]
    answered_by: str


class Macs(TypedDict):
    """Multiply-adds of an image."""

    before: int
    after: int


class Quality(TypedDict):
    """The metric of a network that is pruned."""

    before: float


class Pruning(TypedDict):
    """What pruning cost and gained."""

    macs: Macs
    metric: NotRequired[str]
    quality: NotRequired[Quality]
    latency_ms: NotRequired[dict[str, Any]]


class Environment(TypedDict, total=False):
    """Where a run was trained."""

    versions: dict[str, Any]
    device: dict[str, Any]


class Inner(TypedDict, total=False):
    """What lies below the keys of a result."""

    best: Best | None
    classification: Classification
    pruning: Pruning
    environment: Environment
    error: Failure | None
