"""What runs leave on disk: each path once, files that are whole, what a checkpoint says of itself. No torch."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any, NotRequired, TypedDict
from uuid import uuid4

import yaml

from stagetune.errors import ResultError, WeightsError, causes
from stagetune.typed import RENAMED, typed

METADATA = "stagetune"  # the key of a checkpoint under which its metadata stands
METADATA_VERSION = 1
OF_TRACKERS = ("hparams.yaml", "lightning_logs", "wandb")  # what Lightning's loggers write into a run's directory
SIXTEEN_BITS = [0.0, 65535.0]  # what deep images were scaled by before checkpoints and exported files said it
LARGEST = 1_000_000  # values of a file
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with it


class RunDir(os.PathLike[str]):
    """The directory of one run, and every path in it.

    >>> RunDir("outputs/run").best.as_posix()
    'outputs/run/checkpoints/best.ckpt'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self.config = self.path / "config.yaml"  # every setting, resolved
        self.result = self.path / "result.json"  # how it ended, and all numbers that a comparison needs
        self.failed = self.path / "failed.json"  # the result of an attempt that was repeated
        self.earlier = self.path / "earlier.json"  # that of a completed run which was asked to go on
        self.plan = self.path / "plan.txt"  # what each stage opens, at which rate
        self.metrics = self.path / "metrics.csv"  # a row per epoch
        self.predictions = self.path / "predictions.csv"  # what the best model says of validation and test
        self.embeddings = self.path / "embeddings.npz"  # of a siamese run, the same with embeddings
        self.cache = self.path / "cache.json"  # where the feature cache was used, and why
        self.figures = self.path / "figures"
        self.tracker = self.path / "mlflow.json"  # the tracker's run that this one goes on in
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.ckpt"  # the model of the epoch with the best metric
        self.last = self.checkpoints / "last.ckpt"  # where training goes on
        self.exports = self.path / "exports"  # the best model in other formats
        self.callbacks = self.path / "callbacks"  # a folder for each of the user's own that writes checkpoints
        self.sweep = self.path.parent.parent  # of a job: the folder of its sweep

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def written(self) -> list[Path]:
        """What a run leaves, and a new one would write over."""
        return [
            self.result, self.config, self.last, self.best, self.plan, self.metrics, self.predictions,
            self.embeddings, self.cache, self.figures, self.earlier,
        ]  # fmt: skip

    @property
    def is_job(self) -> bool:
        """Whether the run belongs to a sweep."""
        return sweep_file(self.sweep).exists()

    def unlink_folders(self) -> None:
        """Remove links where what a run writes belongs: nothing is written elsewhere through one."""
        kept = self.callbacks.iterdir() if self.callbacks.is_dir() and not self.callbacks.is_symlink() else ()
        places = (self.checkpoints, self.figures, self.exports, self.callbacks, *kept)
        for place in (*places, *(self.path / name for name in OF_TRACKERS)):
            if place.is_symlink():
                place.unlink()

    def remove_written(self) -> None:
        """Let a new run begin here; what is not a run's stays."""
        for path in self.written:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def remove_drafts(self) -> None:
        """Remove what a killed process was about to write; to be called while nobody writes here."""
        for draft in self.path.rglob("*.tmp"):
            draft.unlink(missing_ok=True)


def new_run_dir(name: str) -> RunDir:
    """Where a run of that name lies that nobody has given a directory: outputs/<name>/<date_time>."""
    return RunDir(Path("outputs") / name / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))


def sweep_file(folder: Path) -> Path:
    """Where a sweep keeps the overrides of each of its jobs."""
    return folder / "sweep.json"


@contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write to that gets its name once all is on the disk: a crash leaves the old file or none, never half.

    The draft is removed where writing fails. A link of that name is replaced, not followed.

    Raises:
        OSError: which names the file, whatever a library has made of it.
    """
    path = Path(path).absolute()
    draft = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException as error:
        with suppress(OSError):  # where there is no such folder, there is no draft
            draft.unlink(missing_ok=True)
        if isinstance(error, Exception) and (cause := _of_the_disk(error)):
            raise OSError(cause.errno, cause.strerror, str(path)) from error
        raise


def _of_the_disk(error: BaseException) -> OSError | None:
    """What the system said, where something failed because of it."""
    return next((one for one in causes(error) if isinstance(one, OSError) and one.errno), None)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """A text file, written whole; what is no character, as in a name of other bytes, is written as its number."""
    with write_whole(path) as file:
        try:
            file.write(text.encode(errors="surrogateescape"))  # a file's name that is no UTF-8 keeps its bytes
        except UnicodeEncodeError:
            file.write(text.encode(errors="backslashreplace"))


def stored_json(path: Path) -> Any:
    """What a file of JSON holds, which may be anybody's.

    Raises:
        FileNotFoundError: where there is none.
        OSError: where it cannot be read.
        ValueError: where it is not JSON in UTF-8.
    """
    try:
        return _writable(json.loads(path.read_bytes().decode()))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _writable(value: Any) -> Any:
    """Plain values without what is no character: JSON can name halves of characters, which no file can hold."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, dict):
        return {_writable(key): _writable(item) for key, item in value.items()}
    return value


class StageRecord(TypedDict):
    """One stage of a run, as result.json lists them.

    Attributes:
        name: that of the stage.
        start_epoch: counted from 0.
        epochs: how many it took.
        steps: how many steps of the optimizer it took.
        trainable_params: how many numbers were trained.
        total_params: how many numbers the model has.
        trainable_blocks: blocks of which anything was trained.
        seconds: of all, validation included.
        samples_per_second: in training.
        peak_memory_mb: the highest so far in the stage.
        val: the metrics, as its last epoch measured them.
        cached_depth: blocks of the frozen prefix that were read from the cache in training.
        cache: what decided that, by part.
        verification: of a siamese run, the whole report after the stage.
        skipped_steps: with on_nan=skip_step, how many of the steps were left out.
        collapsed_in_epoch: where the embeddings fell into one point.
    """

    name: str
    start_epoch: int
    epochs: int
    steps: int
    trainable_params: int
    total_params: int
    trainable_blocks: list[str]
    seconds: float
    samples_per_second: float
    peak_memory_mb: float
    val: dict[str, float]
    cached_depth: int
    cache: NotRequired[dict[str, Any]]
    verification: NotRequired[dict[str, Any]]
    skipped_steps: NotRequired[int]
    collapsed_in_epoch: NotRequired[int]


@dataclass(frozen=True)
class CheckpointMetadata:
    """What a checkpoint says of itself: plain data from which the model can be built again.

    Args:
        config: the run's whole configuration.
        classes: their names in the order of the labels.
        weights: those that training began with, in words.
        trained_on: by origin of images, the classes that it has seen in training, pretraining included.
        images: short keys of the contents of those images.
        calibration: of the threshold of a siamese run, or of a classifier's probabilities, fitted in validation.
        pruning: of each time that its backbone was pruned, oldest first: ratio, removed (by layer its outputs and
            inputs that were left out, from which its shapes are built again) and figures, see `RunResult.pruning`.
        data: what the run's images are, part by part, see `data/contents`; empty in those of versions before.
        range: the values of images of more than 8 bits that become black and white; None where there were none.
        version: of these entries.
    """

    config: dict[str, Any] = field(default_factory=dict)
    classes: list[str] = field(default_factory=list)
    weights: str = ""
    trained_on: dict[str, list[str]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)
    calibration: dict[str, Any] | None = None
    pruning: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    range: list[float] | None = None
    version: int = METADATA_VERSION

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> "CheckpointMetadata":
        """Those of a loaded checkpoint, of this version or an older one.

        Raises:
            WeightsError: where there are none, where a newer version has written them, or where they are what no run
                writes.
        """
        stored = checkpoint.get(METADATA)
        version = stored.get("version", 0) if isinstance(stored, Mapping) else None  # those of 0.1.0 do not say one
        if not isinstance(stored, Mapping) or not isinstance(version, int):
            raise WeightsError("holds no metadata of this project; give a run's checkpoints/best.ckpt")
        known = {entry.name for entry in fields(cls)}
        if version > METADATA_VERSION:
            raise WeightsError(
                f"has metadata of version {version}, this stagetune reads up to {METADATA_VERSION}; update stagetune"
            )
        entries = {"range": SIXTEEN_BITS} | {
            name: value for name, value in stored.items() if name in known - {"pruning", "version"}
        }
        problems: list[str] = []
        found: CheckpointMetadata = typed(cls, entries, METADATA, problems)
        if problems:
            said = problems[0]
            raise WeightsError(f"what it says of itself does not fit this version of the project: {said}")
        # how it was pruned is read where its layers are known
        return replace(found, config=renamed(found.config), pruning=stored.get("pruning", []))

    def put_into(self, checkpoint: dict[str, Any]) -> None:
        """Let a checkpoint that is about to be written say this of itself."""
        checkpoint[METADATA] = {entry.name: getattr(self, entry.name) for entry in fields(self)}


def stored_yaml(path: Path, *, most: int = LARGEST) -> Any:
    """What a file of YAML holds, which may be anybody's; no more than so many values.

    Raises:
        FileNotFoundError: where there is none.
        OSError: where it cannot be read.
        ValueError: where it is not YAML in UTF-8, or is larger than it looks.
    """
    try:
        text = path.read_bytes().decode()
        if _size(yaml.compose(text, _Loader)) > most:
            raise ValueError("its anchors (&) stand for too much; write it out")
        return yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply, or contains itself") from None
    except (yaml.YAMLError, TypeError, AttributeError, OverflowError) as error:  # of keys and dates that are none
        raise ValueError(" ".join(str(error).split())) from error


def _size(node: yaml.Node | None, known: dict[int, int] | None = None) -> int:
    """How many values stand in a node, with what its anchors stand for each time."""
    known = {} if known is None else known
    if id(node) not in known:
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def stored_config(run_dir: RunDir) -> dict[str, Any]:
    """The configuration that a run has kept.

    Raises:
        ResultError: where there is none that can be read.
    """
    try:
        config = stored_yaml(run_dir.config)
    except (OSError, ValueError) as error:
        raise ResultError(f"{run_dir.config} cannot be read ({error}); run it again") from error
    if not isinstance(config, dict):
        raise ResultError(f"{run_dir.config} holds no configuration; run it again")
    return renamed(config)


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration with its settings by today's names."""
    config = dict(config)
    for group, names in RENAMED.items():
        if isinstance(config.get(group), Mapping):
            config[group] = {names.get(key, key): value for key, value in config[group].items()}
    return config
