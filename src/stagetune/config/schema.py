"""The whole vocabulary of the configuration, as dataclasses. What a key does is said in conf/."""

import re
from dataclasses import dataclass, field
from typing import Any

BLOCKS = ("stem", "layer1", "layer2", "layer3", "layer4")
HEAD = "head"
SELECTORS = ("last", "fraction", "index", "match", "params")

LR_SCHEDULERS = ("constant", "linear", "cosine", "one_cycle", "plateau")

LOWER_IS_BETTER = ("loss", "eer", "error", "mae", "mse", "rmse", "nll", "perplexity", "wer", "cer")
HIGHER_IS_BETTER = (
    "accuracy",
    "acc",
    "top5",
    "f1",
    "auc",
    "auroc",
    "map",
    "precision",
    "recall",
    "iou",
    "dice",
    "r2",
)
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


def mode_of(metric: str) -> str | None:
    """`min` for losses and errors, `max` for scores; None for a metric whose name does not say it."""
    words = re.split(r"[/_\s-]", metric.lower())
    if any(word in LOWER_IS_BETTER for word in words):
        return "min"
    return "max" if any(word in HIGHER_IS_BETTER for word in words) else None


def choice(default: str | None, *others: str) -> Any:
    """A string field that takes one of the given values."""
    given = others if default is None else (default, *others)
    return field(default=default, metadata={"choices": given})


def number(default: float | None, low: float, high: float = float("inf")) -> Any:
    """A numeric field with an allowed range, both ends included."""
    return field(default=default, metadata={"range": (low, high)})


@dataclass
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


@dataclass
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


@dataclass
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
    crossed: int = number(0, 0)
    turned: bool = False


@dataclass
class LossConfig:
    name: str = choice(*LOSSES["classifier"], *LOSSES["siamese"])
    label_smoothing: float = number(0.0, 0, 0.99)
    margin: float = number(1.0, 0)
    mining: str = choice("batch_hard", "batch_all", "semi_hard", "easy_positive")
    soft_margin: bool = False
    distance: str = choice("euclidean", "squared", "cosine", "weighted_l1")
    temperature: float = number(0.1, 1e-4)
    scale: float = number(32.0, 0)


@dataclass
class Until:
    monitor: str | None = None  # the schedule's, if not said
    mode: str | None = choice(None, "min", "max")  # by the metric's name, if not said
    patience: int = number(3, 1)
    min_delta: float = number(0.0, 0)
    max_epochs: int = number(20, 1)


@dataclass
class Stage:
    name: str = ""
    open: list[Any] = field(default_factory=list)  # selectors: a block, or {last: 20}, {match: "*.bn*"}, ...
    freeze: list[Any] = field(default_factory=list)  # selectors, taken away from what is open
    epochs: int | None = number(None, 1)  # one of epochs, steps and until; 1 epoch if none is said
    steps: int | None = number(None, 1)
    until: Until | None = None
    restore_best: bool = False
    lr: float | None = number(None, 0)
    lr_decay: float = number(1.0, 0)
    lr_range: list[float] | None = None
    lrs: dict[str, Any] | None = None
    lr_scheduler: Any = "constant"  # a name of LR_SCHEDULERS, or {_target_: torch.optim.lr_scheduler.StepLR, ...}
    warmup: float = number(0.0, 0)
    warmup_steps: int | None = number(None, 1)
    optimizer_state: str = choice("keep", "reset")
    batch_norm: str = choice("auto", "frozen", "train")
    weight_decay: float | None = number(None, 0)


@dataclass
class BackboneFinetuning:
    unfreeze_backbone_at_epoch: int = number(10, 1)
    backbone_initial_ratio_lr: float | None = number(0.1, 0)
    backbone_initial_lr: float | None = number(None, 0)
    lambda_func: float = number(2.0, 0)
    should_align: bool = True
    initial_denom_lr: float = number(10.0, 0)
    train_bn: bool = True
    lr: float = number(1e-3, 0)
    epochs: int = number(20, 1)


@dataclass
class Schedule:
    name: str = "schedule"
    leave_frozen: bool = False
    stages: list[Stage] = field(default_factory=list)
    monitor: str | None = None
    mode: str | None = choice(None, "min", "max")
    file: str | None = None
    backbone_finetuning: BackboneFinetuning | None = None


@dataclass
class CacheConfig:
    features: str = choice("auto", "off")
    images: str = choice("auto", "off")
    views: int = number(0, 0)
    dtype: str = choice("auto", "bf16")
    device_gb: float = number(4.0, 0)
    memory_gb: float = number(4.0, 0)
    disk_gb: float = number(20.0, 0)


@dataclass
class CheckpointConfig:
    min_seconds: float = number(10.0, 0)
    every_n_steps: int | None = number(None, 1)


@dataclass
class SweepConfig:
    name: str = ""
    stop_on_failure: bool = False
    trial: int | None = number(None, 0)


@dataclass
class LoggerConfig:
    csv: bool = True
    lightning: dict[str, Any] | None = None


@dataclass
class Config:
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
    accumulation: int = number(1, 1)
    exact_accumulation: bool = False
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    resume: str | None = None
    resume_with_new_schedule: bool = False
