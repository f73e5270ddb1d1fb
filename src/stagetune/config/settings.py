"""What all parts of a kind can be told, and what each says of itself. A part's module adds its own. No torch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from stagetune.typed import Settings, choice, number

if TYPE_CHECKING:
    from torch import Tensor, nn

    from stagetune.config.schema import Config
    from stagetune.data.source import Pairs, Source
    from stagetune.data.splits import Split
    from stagetune.models.backbone import Backbone
    from stagetune.models.weights import Weights
    from stagetune.tasks.staged_task import StagedTask

MAX_MEGAPIXELS = 200.0  # by default an image of more is refused
BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4")


@dataclass(frozen=True)
class Input:
    """The images that a backbone's weights were trained on; mean and std of channels between 0 and 1."""

    size: int = 224  # pixels per side
    interpolation: str = "bilinear"  # | bicubic | nearest
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


class Part(Settings):
    """What is chosen by name."""

    name: str

    def problems(self, config: "Config") -> Iterator[str]:
        """What it demands of other settings."""
        yield from ()

    def target_problems(self, config: "Config") -> list[str]:
        """What does not exist or fit of that which it names by `_target_`; imports it."""
        return []


@dataclass(slots=True)
class PruneConfig:
    ratio: float | None = number(None, 0.01, 0.95)


@dataclass
class ModelSettings(Part):
    """What every backbone can be told. A part of models/backbones adds its own, and says the rest below."""

    name: str = "resnet"
    weights: str = "auto"
    mean: list[float] | None = None
    std: list[float] | None = None
    head: str = choice("new", "keep")
    head_init: str = choice("random", "probe")
    prune: PruneConfig = field(default_factory=PruneConfig)

    may_come_frozen: ClassVar[bool] = False

    def problems(self, config: "Config") -> Iterator[str]:
        if self.weights not in ("auto", "imagenet", "random") and not Path(self.weights).expanduser().exists():
            where = f"(looked in {Path.cwd()})"
            yield f"model.weights={self.weights}: neither auto, imagenet or random nor a file or run {where}"
        if self.head == "keep" and self.weights in ("auto", "imagenet", "random"):
            yield "model.head=keep: keeps the head of a run; name it, model.weights=outputs/..."
        if self.head_init == "probe":
            yield from self._head_init_problems(config)
        if self.prune.ratio is not None:
            yield from self._prune_problems(self.prune.ratio)
        for key in ("mean", "std"):
            value = getattr(self, key)
            if value is not None and (len(value) != 3 or not all(0 <= one <= 1 for one in value)):
                yield f"model.{key}={value}: expects three numbers between 0 and 1, one per channel"
        if self.std is not None and 0 in self.std:
            yield f"model.std={self.std}: must be greater than 0"
        if config.came_frozen != "hold" and not self.may_come_frozen:
            yield f"came_frozen={config.came_frozen}: it goes with model=own; no others come frozen"

    def _head_init_problems(self, config: "Config") -> Iterator[str]:
        begins = "model.head_init=probe"
        if self.head == "keep":
            yield f"{begins}: the head is that of the run with model.head=keep; leave one of them out"
        if not config.data.has_identities:
            yield f"{begins}: data={config.data.name} has pairs, and no classes to learn it from; leave it out"
        elif (kind := getattr(config.task, "head", None)) != "linear":
            yield f"{begins}: a probe is a linear layer, and the head is {kind}; add task.head=linear"
        if config.cache.features == "off":
            yield f"{begins}: its features come from the cache, which is off; use cache=auto"

    def _prune_problems(self, ratio: float) -> Iterator[str]:
        if self.weights == "random":
            yield f"model.prune.ratio={ratio}: random weights say nothing of a channel; name a run, model.weights=DIR"
        if why := self.unprunable():
            yield f"model.prune.ratio={ratio}: {self.title()} cannot be pruned: {why}; leave it out"

    def unprunable(self) -> str:
        """Why no channel of it can be left out, in words; empty where that can be tried."""
        return ""

    def title(self) -> str:
        """What it is called on the screen."""
        return str(getattr(self, "arch", self.name))

    def labels(self) -> list[str]:
        """The labels of its blocks where they are other than stem, layer1 ... layer4, and known."""
        return []

    def input(self) -> Input:
        """What its pretrained weights want of images."""
        raise NotImplementedError

    def build(self, image_size: int) -> "Backbone":
        """The backbone with random weights (or, of a network of one's own, with those that its class gives it)."""
        raise NotImplementedError

    def as_built(self) -> "Weights | None":
        """Those that it has as it is built; None where these are random."""
        return None

    def pretrained(self, image_size: int) -> "Weights | None":
        """ImageNet's weights, for images of that size; None where they are neither at hand nor can be had."""
        raise NotImplementedError

    def pretrained_at(self) -> str:
        """Where their file is looked for, in words."""
        raise NotImplementedError


@dataclass
class TaskSettings(Part):
    """What every task can be told. A part of tasks/settings adds its own, and says the rest below."""

    name: str = "classifier"
    monitor: str = "val/loss"
    mode: str | None = choice(None, "min", "max")

    metrics: ClassVar[tuple[str, ...]] = ("val/loss",)  # what it measures
    names_classes: ClassVar[bool] = False  # whether an output is for a class, in their order
    told: ClassVar[tuple[str, ...]] = ()  # arguments that metrics of somebody's own are given where they ask for them

    def check(self, source: "Source", split: "Split", pairs: "Pairs | None") -> None:
        """Raise `DataError` for data that it cannot be trained or measured on."""

    def batches_of(self) -> tuple[int | None, bool]:
        """Images of each identity in a training batch, None for any images; and whether all are of one group."""
        return None, False

    def build(
        self,
        loss: "LossSettings",
        backbone: "Backbone",
        classes: int,
        pairs: "Pairs | None",
        metrics: Mapping[str, Mapping[str, Any]],
        **shared: Any,
    ) -> "StagedTask":
        """The LightningModule: the backbone under its head, with the loss, and with metrics of somebody's own."""
        raise NotImplementedError


@dataclass
class LossSettings(Part):
    """What every loss can be told: nothing. A part of losses/ adds its own."""

    name: str = "cross_entropy"

    task: ClassVar[str | None] = None  # the only one that it is for
    takes_pairs: ClassVar[bool | None] = False  # whether it has `of_pairs`, for a table's pairs; None: perhaps

    def measure(self) -> str:
        """How far it says that two embeddings are apart, see `models/distances`."""
        return "euclidean"

    def for_classes(self, classes: Sequence[str], counts: Sequence[int]) -> Self:
        """The settings with numbers in place of what depends on the data, of so many training images of each class.

        Raises:
            ConfigError: for settings that do not fit these classes.
        """
        return self

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        """The loss over outputs [n, dimensions] and classes or identities [n]."""
        raise NotImplementedError

    def check_shares(self, loss: "nn.Module", classes: int) -> None:
        """Raise `ConfigError` if a classifier's loss cannot take shares of the classes [n, classes] as targets."""


@dataclass
class NoLoss(LossSettings):
    """In place of a loss where nothing is trained."""

    distance: str = "euclidean"

    def measure(self) -> str:
        return self.distance

    def build(self, classes: int, dimensions: int) -> "nn.Module":
        from torch import nn

        return nn.Module()


@dataclass
class PairLossSettings(LossSettings):
    """What every loss of distances between two embeddings can be told."""

    distance: str = choice("euclidean", "squared", "cosine", "weighted_l1")

    task = "siamese"

    def measure(self) -> str:
        return self.distance


@dataclass
class DataSettings(Part):
    """What all data can be told. A part of data/sources adds its own, and says the rest below."""

    name: str = "digits"
    image_size: int | None = number(None, 16)
    resize: str = choice("crop", "pad", "squash")
    range: list[float] | None = None
    max_megapixels: float = number(MAX_MEGAPIXELS, 0.001)
    split: str = choice("images", "identities", "groups")
    sampler: str = choice("shuffled", "balanced")
    augment: str = choice(
        "none",
        "affine",
        "strong_affine",
        "crop_flip",
        "randaugment",
        "trivialaugment",
        otherwise="Any other goes in as data.transform._target_=torchvision.transforms.v2.AugMix",
    )
    random_erasing: float = number(0.0, 0, 1)
    mixup: float = number(0.0, 0)
    cutmix: float = number(0.0, 0)
    transform: dict[str, Any] | None = None
    batch_size: int = number(32, 2)
    num_workers: int | None = number(None, 0)

    reads_files: ClassVar[bool] = True
    has_identities: ClassVar[bool] = True  # not where a table gives pairs
    may_be_photographs: ClassVar[bool] = True
    published: ClassVar[bool] = False  # others are compared on it, so that it stays as it is, with its copies

    @property
    def mixes(self) -> bool:
        """Whether images of a training batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    def problems(self, config: "Config") -> Iterator[str]:
        for entry in fields(self):
            kind, example = entry.metadata.get("place", (None, None))
            value = getattr(self, entry.name)
            if kind and not value:  # nor an empty one, which would be the folder that one is in
                yield f"data.{entry.name}: is missing; give the {kind}, data.{entry.name}={example}"
            elif kind and not _is_there(value, kind):
                yield f"data.{entry.name}={value}: is not there, seen from {Path.cwd()}; give the {kind}"
        if self.range is not None and not (len(self.range) == 2 and -inf < self.range[0] < self.range[1] < inf):
            yield f"data.range={self.range}: expects two rising numbers, the value of black and that of white"

    def build(self, image_size: int) -> "tuple[Source, Pairs | None]":
        """The images, and the pairs where a table gives them; `image_size` is for images that are drawn."""
        raise NotImplementedError

    def division(self) -> dict[str, Any]:
        """By what it is divided into train, val and test where it brings no split; see `data/splits`."""
        return {"by": self.split, "val": 0.0, "test": 0.0, "seed": 0}


@dataclass
class SplitSettings(DataSettings):
    """What data can be told that is split by share, unless it brings a split."""

    val: float = number(0.2, 0.01, 0.9)
    test: float = number(0.2, 0.01, 0.9)
    seed: int = number(0, 0)
    folds: int | None = number(None, 2)
    fold: int = number(0, 0)

    def problems(self, config: "Config") -> Iterator[str]:
        yield from DataSettings.problems(self, config)
        if self.folds is None:
            if self.val + self.test >= 0.95:
                shares = f"data.val={self.val} and data.test={self.test}"
                yield f"{shares}: leave nothing to train on; keep their sum below 0.95"
            if self.fold:
                yield f"data.fold={self.fold}: has no effect without data.folds; add data.folds=5"
            return
        if self.val + 1 / self.folds >= 0.95:
            shares = f"data.val={self.val} and data.folds={self.folds}"
            yield f"{shares}: leave nothing to train on, a fold is {1 / self.folds:.2g}; take a smaller data.val"
        if self.fold >= self.folds:
            yield f"data.fold={self.fold}: there are data.folds={self.folds}, counted from 0 to {self.folds - 1}"
        if self.differs("test"):
            yield f"data.test={self.test}: has no effect with data.folds={self.folds}, one of which is the test"

    def division(self) -> dict[str, Any]:
        shares = {"val": self.val, "test": self.test, "folds": self.folds, "fold": self.fold}
        return {"by": self.split, "seed": self.seed, **shares}


@dataclass
class GroupSettings(SplitSettings):
    """What data can be told that may know groups: the patient of an image, the alphabet of a character."""

    val_groups: list[str] | None = None
    test_groups: list[str] | None = None

    def problems(self, config: "Config") -> Iterator[str]:
        yield from SplitSettings.problems(self, config)
        if (self.val_groups or self.test_groups) and self.split == "images":
            yield "data.val_groups and data.test_groups: have an effect with data.split=identities or groups; add it"
        if (self.val_groups or self.test_groups) and self.folds is not None:
            yield f"data.val_groups and data.test_groups: data.folds={self.folds} draws both; leave one of them out"

    def division(self) -> dict[str, Any]:
        groups = {"val_groups": self.val_groups, "test_groups": self.test_groups}
        return SplitSettings.division(self) | groups


@dataclass
class WrapperSettings(Settings):
    """What a wrapper can be told, beside the settings of the data. A part of data/wrappers says the rest below."""

    needs_identities: ClassVar[bool] = True

    def problems(self, config: "Config") -> Iterator[str]:
        """What it demands of other settings."""
        yield from ()

    def wrap(self, source: "Source", split: "Split", seed: int) -> "tuple[Source, Split]":
        """The source with what it does to it, and the split of that; both as they are where it is not asked for."""
        raise NotImplementedError

    def prepare(self, image: "Tensor") -> "Tensor":
        """What it does to every image, also to one that a trained model is asked about; uint8 [3, height, width]."""
        return image


def place(kind: str, example: str) -> Any:
    """A field that names what data is read from: a `folder that ...` or `table with ...`, and an example of it."""
    return field(default=None, metadata={"place": (kind, example)})


def _is_there(where: str, kind: str) -> bool:
    path = Path(where).expanduser()
    return path.is_dir() if kind.startswith("folder") else path.is_file()
