"""The whole vocabulary of the configuration, as dataclasses. What a key does is said in conf/."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stagetune.schedule.load import ScheduleSource
from stagetune.schedule.spec import Schedule
from stagetune.typed import Settings, choice, number

if TYPE_CHECKING:
    from stagetune.models.backbone import Backbone
    from stagetune.models.weights import Weights

BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4")
METRICS = {
    "classifier": ("val/loss", "val/accuracy", "val/top5", "val/f1"),
    "siamese": ("val/loss", "val/auc", "val/eer", "val/accuracy"),
}
LOSSES = {
    "classifier": ("cross_entropy",),
    "siamese": (
        "contrastive", "triplet", "bce", "supcon", "nt_xent", "multi_similarity", "arcface", "proxy_anchor",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Input:
    """The images that a backbone's weights were trained on; mean and std of channels between 0 and 1."""

    size: int = 224  # pixels per side
    interpolation: str = "bilinear"  # | bicubic | nearest
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)


@dataclass
class ModelSettings(Settings):
    """What every backbone can be told. A part of models/backbones adds its own, and says the rest below."""

    name: str = "resnet"
    weights: str = "auto"
    mean: list[float] | None = None
    std: list[float] | None = None
    head: str = choice("new", "keep")

    def input(self) -> Input:
        """What its pretrained weights want of images."""
        raise NotImplementedError

    def build(self, image_size: int) -> "Backbone":
        """The backbone with random weights (or, of a network of one's own, with those that its class gives it)."""
        raise NotImplementedError

    def pretrained(self) -> "Weights | None":
        """ImageNet's weights; None where they are neither at hand nor can be had."""
        raise NotImplementedError

    def pretrained_at(self) -> str:
        """Where their file is looked for, in words."""
        raise NotImplementedError


@dataclass(slots=True)
class TaskConfig:
    name: str = choice("classifier", "siamese")
    monitor: str = "val/accuracy"
    head: str = choice("linear", "hidden")
    hidden: int = number(512, 1)
    dropout: float = number(0.0, 0, 0.99)
    embedding: int | None = number(128, 1)
    images_per_identity: int = number(4, 2)
    batches: str = choice("identities", "by_group", "uniform")
    eval_pairs: int = number(100_000, 100)
    calibrate: str = choice("accuracy", "eer", "far")
    far: float = number(0.01, 1e-6, 0.5)
    on_collapse: str = choice("stop", "go_back", "go_on")


@dataclass(slots=True)
class ModelConfig:
    arch: str = choice(
        "resnet50",
        "resnet18",
        "resnet34",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "vgg16",
        "own",
    )
    stem: str = choice("imagenet", "small_images")
    weights: str = "auto"
    pooled: list[str] | None = None
    network: dict[str, Any] | None = None
    blocks: Any = None  # of an own network: names of layers, or lists of them by block

    def pretrained(self) -> "Weights | None":
        """As `ModelSettings` says."""
        if self.network:
            from stagetune.models.weights import Weights

            return Weights(f"as {self.network['_target_']} builds them", None)
        from stagetune.models.imagenet import torchvision_weights

        return torchvision_weights(self.arch)

    def pretrained_at(self) -> str:
        """As `ModelSettings` says."""
        from stagetune.models.imagenet import torchvision_weights_at

        return torchvision_weights_at(self.arch)


@dataclass(slots=True)
class DataConfig:
    name: str = choice("digits", "glyphs", "image_folder", "identity_csv", "pairs", "omniglot", "lfw")
    root: str | None = None
    identity_depth: int = number(1, 1, 2)
    csv: str | None = None
    pairs: str | None = None
    image_size: int = number(64, 16)
    split: str = choice("images", "identities")
    val: float = number(0.2, 0.01, 0.9)
    test: float = number(0.2, 0.01, 0.9)
    seed: int = number(0, 0)
    augment: str = choice("none", "affine", "strong_affine", "crop_flip")
    batch_size: int = number(64, 2)
    num_workers: int | None = number(None, 0)
    on_error: str = choice("raise", "skip")
    images_per_identity: int = number(12, 2)
    groups: list[str] | None = None
    val_groups: list[str] | None = None
    test_groups: list[str] | None = None
    centred: bool = False
    spliced: int = number(0, 0)
    turned: bool = False


@dataclass(slots=True)
class LossConfig:
    name: str = choice(*LOSSES["classifier"], *LOSSES["siamese"])
    label_smoothing: float = number(0.0, 0, 0.99)
    margin: float = number(1.0, 0)
    mining: str = choice("batch_hard", "batch_all", "semi_hard", "easy_positive")
    soft_margin: bool = False
    distance: str = choice("euclidean", "squared", "cosine", "weighted_l1")
    temperature: float = number(0.1, 1e-4)
    scale: float = number(32.0, 0)


@dataclass(slots=True)
class CacheConfig:
    features: str = choice("auto", "off")
    images: str = choice("auto", "off")
    views: int = number(0, 0)
    dtype: str = choice("auto", "bf16")
    device_gb: float = number(4.0, 0)
    memory_gb: float = number(4.0, 0)
    disk_gb: float = number(20.0, 0)


@dataclass(slots=True)
class CheckpointConfig:
    min_seconds: float = number(10.0, 0)
    every_n_steps: int | None = number(None, 1)


@dataclass(slots=True)
class SweepConfig:
    name: str = ""
    stop_on_failure: bool = False
    trial: int | None = number(None, 0)


@dataclass(slots=True)
class LoggerConfig:
    csv: bool = True
    lightning: dict[str, Any] | None = None


@dataclass(slots=True)
class Config:
    """Every setting of a run, by group as on the command line; what each does is said in conf/."""

    name: str = "run"
    seed: int = number(0, 0, 2**32 - 1)
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: dict[str, Any] = field(default_factory=dict)
    precision: str = choice("auto", "fp32", "tf32", "bf16", "fp16")
    compile: bool = False
    ema: float | None = number(None, 0.0001, 0.999999)
    came_frozen: str = choice("hold", "open")
    accumulation: int = number(1, 1)
    exact_accumulation: bool = False
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    resume: str | None = None
    resume_with_new_schedule: bool = False


@dataclass(slots=True)
class Composed(Config):
    """The configuration as it may be given: its schedule also by a file or a recipe, which become stages."""

    schedule: ScheduleSource = field(default_factory=ScheduleSource)
