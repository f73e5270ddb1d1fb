"""What a trained model says of itself to whoever uses it: plain data, as an exported file carries it. No torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf, isfinite
from pathlib import PurePath
from typing import Any

from stagetune.artifacts import SIXTEEN_BITS, CheckpointMetadata
from stagetune.config.parts import WRAPPERS, names, settings_in
from stagetune.config.schema import Config
from stagetune.config.settings import MAX_MEGAPIXELS, WrapperSettings
from stagetune.data.facts import Range
from stagetune.errors import WeightsError
from stagetune.evaluation.calibration import Calibration
from stagetune.evaluation.confidence import Confidence
from stagetune.typed import choice, number, typed

OUTPUTS = {"classifier": ("scores", "features"), "siamese": ("embeddings",)}
VERSION = 1


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the square that the network takes.

    Attributes:
        image_size: pixels per side.
        interpolation: bilinear, bicubic or nearest.
        resize: crop, pad or squash, see `data/transforms`.
        wrappers: settings of the wrappers that change every image before, by name.
        range: the values of images of more than 8 bits that become black and white; None where it saw none: they are
            then those that fit each image.
        max_megapixels: a file with more pixels is not decoded.
    """

    image_size: int = number(224, 16)
    interpolation: str = choice("bilinear", "bicubic", "nearest")
    resize: str = choice("crop", "pad", "squash")
    wrappers: dict[str, dict[str, Any]] = field(default_factory=dict)
    range: list[float] | None = None
    max_megapixels: float = number(MAX_MEGAPIXELS, 0.001)

    @classmethod
    def of(cls, config: Config, range: list[float] | None = None) -> "Preprocessing":
        """That of a run, with the range that its checkpoints say."""
        wrappers = {}
        for name in names(WRAPPERS):
            kind = settings_in(WRAPPERS, name)
            given = {entry.name: getattr(config.data, entry.name, entry.default) for entry in fields(kind)}  # type: ignore[arg-type]
            changes: Any = kind
            if changes.prepare is not WrapperSettings.prepare and kind(**given) != kind():
                wrappers[name] = given
        wanted = config.input()
        return cls(wanted.size, wanted.interpolation, config.data.resize, wrappers, range, config.data.max_megapixels)

    def key(self) -> str:
        """What decides the pixels; of models from before `range` was said, what it was then."""
        left_out = {"max_megapixels", *(["range"] if self.range == SIXTEEN_BITS else [])}
        return json.dumps(
            {name: value for name, value in asdict(self).items() if name not in left_out}, sort_keys=True
        )

    def scale(self) -> Range | None:
        """The `range`, as images are read by it.

        Raises:
            WeightsError: where it is none.
        """
        match self.range:
            case None:
                return None
            case [float() | int() as low, float() | int() as high] if -inf < low < high < inf:
                return Range(low, high)
        raise WeightsError(f"preprocessing.range={self.range}: expects two rising numbers; export it again")

    def applied(self) -> list[WrapperSettings]:
        """The wrappers, in the order in which they change an image.

        Raises:
            WeightsError: for one that this version does not know.
        """
        problems: list[str] = [f"{name}: no such wrapper" for name in self.wrappers if name not in names(WRAPPERS)]
        found = [
            typed(settings_in(WRAPPERS, name), given, name, problems)
            for name, given in self.wrappers.items()
            if name in names(WRAPPERS)
        ]
        if problems:
            raise WeightsError(f"preprocessing.wrappers: {'; '.join(problems)}; update stagetune")
        return found


@dataclass(frozen=True)
class Description:
    """A model as it is used.

    Attributes:
        task: classifier or siamese.
        classes: their names, in the order of a classifier's scores; of a siamese run the identities that it knew.
        preprocessing: of an image.
        distance: of a siamese run, how far apart two embeddings are, see `models/distances`.
        calibration: of a siamese run those of `Calibration`, of a classifier those of `Confidence`.
        key: of what the numbers come from: weights, network and preprocessing; equal keys give equal embeddings.
        provenance: where it comes from: experiment, seed, model, weights, versions. Holds no path.
        version: of these entries.
    """

    task: str = choice("classifier", "siamese")
    classes: list[str] = field(default_factory=list)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    distance: str | None = choice(None, "euclidean", "squared", "cosine", "weighted_l1")
    calibration: dict[str, Any] | None = None
    key: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the network gives: scores and features of a classifier, or embeddings."""
        return OUTPUTS[self.task]

    def confidence(self) -> Confidence:
        """How a classifier's scores become probabilities; of a checkpoint that does not say it, by softmax alone."""
        return Confidence(**self.calibration) if self.calibration else Confidence(1.0, None, 0)

    def sameness(self) -> Calibration:
        """From which distance on two images are of two identities.

        Raises:
            WeightsError: where it was never fitted.
        """
        if self.calibration is None:
            raise WeightsError("the model has no threshold: it was saved before its first validation; use best.ckpt")
        return Calibration(**self.calibration)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Description":
        """The description in an exported file.

        Raises:
            WeightsError: for what is none, or is of a newer version.
        """
        try:
            values = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise WeightsError(f"describes itself by what is no JSON ({error})") from error
        given = values.get("version") if isinstance(values, Mapping) else None
        if not isinstance(given, int):
            raise WeightsError("does not describe itself as a model of this project; export it again")
        if given > VERSION:
            raise WeightsError(
                f"has a description of version {given}, this stagetune reads up to {VERSION}; update it"
            )
        problems: list[str] = []
        preprocessing = values.get("preprocessing")
        if isinstance(preprocessing, dict):
            preprocessing.setdefault("range", SIXTEEN_BITS)  # of a file from before it was said
        found: Description = typed(cls, values, "", problems)
        if not problems:
            problems += calibration_problems(found.task, found.calibration)
            if found.task == "siamese" and found.calibration is None:
                problems.append("calibration: is missing")
            if found.task == "siamese" and found.distance is None:
                problems.append("distance: is missing")
        if problems:
            raise WeightsError(f"describes itself wrongly: {'; '.join(problems)}; export it again")
        return found


def calibration_problems(task: str, fitted: Mapping[str, Any] | None) -> list[str]:
    """What is wrong with what was fitted in validation, as far as it was."""
    if fitted is None:
        return []
    wanted = Confidence if task == "classifier" else Calibration
    if missing := [entry.name for entry in fields(wanted) if entry.name not in fitted]:
        return [f"calibration: lacks {', '.join(missing)}"]
    problems: list[str] = []
    typed(wanted, fitted, "calibration", problems)
    problems += [
        f"calibration.{name}={value}: must be a finite number"
        for name, value in fitted.items()
        if isinstance(value, float) and not isfinite(value)
    ]
    if not problems and wanted is Confidence and not fitted["temperature"] > 0:
        problems.append(f"calibration.temperature={fitted['temperature']}: must be above 0")
    return problems


def description_of(config: Config, metadata: CheckpointMetadata, distance: str | None) -> Description:
    """What a checkpoint is to its user; the key is that of its weights, which are not known here."""
    given = str(config.model.weights)  # a path may have spaces, so that it is none of the words
    return Description(
        task=config.task.name,
        classes=list(metadata.classes),
        preprocessing=Preprocessing.of(config, metadata.range),
        distance=distance,
        calibration=metadata.calibration,
        provenance={
            "experiment": config.name,
            "seed": config.seed,
            "model": config.model.title(),
            "schedule": config.schedule.name,
            "weights": without_folders(metadata.weights.replace(given, PurePath(given).name)),
        },
    )


def _no_number(word: str) -> None:
    """Raise `ValueError` for NaN and Infinity, which Python takes and JSON does not have."""
    raise ValueError(f"{word} is no number")


def without_folders(words: str) -> str:
    """Words with every path in them cut down to its last part."""
    return " ".join(word.rstrip("/").rpartition("/")[2] if "/" in word else word for word in words.split(" "))
