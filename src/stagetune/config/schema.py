"""The vocabulary of the configuration, as dataclasses; parts add to it. What a key does is said in conf/."""

from dataclasses import dataclass, field, replace
from typing import Any

from stagetune.config.settings import DataSettings, Input, LossSettings, ModelSettings, TaskSettings
from stagetune.schedule.load import ScheduleSource
from stagetune.schedule.spec import Schedule
from stagetune.typed import choice, number


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
    task: TaskSettings = field(default_factory=TaskSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    schedule: Schedule = field(default_factory=Schedule)
    optimizer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    precision: str = choice("auto", "fp32", "tf32", "bf16", "fp16")
    compile: bool = False
    ema: float | None = number(None, 0.0001, 0.999999)
    came_frozen: str = choice("hold", "open")
    accumulation: int = number(1, 1)
    exact_accumulation: bool = False
    on_nan: str = choice("stop", "skip_step")
    trainer: dict[str, Any] = field(default_factory=dict)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    resume: str | None = None
    resume_with_new_schedule: bool = False
    trust: bool = False

    def input(self) -> Input:
        """Images as the backbone gets them."""
        wanted = self.model.input()
        return replace(wanted, size=self.data.image_size or wanted.size)


@dataclass(slots=True)
class Composed(Config):
    """The configuration as it may be given: its schedule also by a file or a recipe, which become stages."""

    schedule: ScheduleSource = field(default_factory=ScheduleSource)
