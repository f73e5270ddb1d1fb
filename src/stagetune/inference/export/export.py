"""A model in another format: written, compared with the original on real images, and only then given its name."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from stagetune import __version__
from stagetune.artifacts import RunDir, write_text
from stagetune.data.datamodule import StagedData
from stagetune.errors import ExportError
from stagetune.inference.checkpoint import load_task
from stagetune.inference.description import Description
from stagetune.inference.export.compare import Answered, Comparison, answered, compare_classifier, compare_siamese
from stagetune.inference.export.formats import SUFFIXES, Source, computed, writer
from stagetune.inference.export.images import data_of, training_images
from stagetune.inference.export.quantize import IMAGES
from stagetune.inference.export.torchvision import head_file
from stagetune.inference.load import load, used
from stagetune.inference.runtimes.pytorch import PyTorch
from stagetune.run.latency import latencies
from stagetune.tasks.settings.classifier import Settings as ClassifierSettings
from stagetune.tasks.settings.siamese import Settings as SiameseSettings
from stagetune.tasks.siamese import SiameseTask, stacked
from stagetune.trust import Trust

LIMIT = 1e-4  # of the relative difference in fp32
LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "safetensors")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        file: the model.
        beside: what lies beside it: what is said of it as JSON, and the head where torchvision has no place for it.
        description: what it says of itself, with the comparison in its provenance.
        comparison: with the original.
        before: what the original says of itself.
    """

    file: Path
    beside: list[Path]
    description: Description
    comparison: Comparison
    before: Description


def export(
    checkpoint: Path,
    *,
    to: str,
    file: Path | None = None,
    int8: bool = False,
    trust: Trust = False,
    words: Sequence[str] = (),
) -> Exported:
    """Write a trained model in another format.

    Args:
        checkpoint: or the directory of a run, whose best one is taken.
        to: onnx, torch-export, torchvision or safetensors.
        file: where to; by default RUN/exports/<checkpoint>.<suffix>.
        int8: of ONNX, in 8-bit integers.
        trust: see `load`; or the names of classes that may be imported and run.
        words: what holds of the data today, such as data.root=FOLDER.

    Raises:
        ExportError: where nothing is written: for a network that the format cannot hold, a file that is there, and
            outputs that are not the original's.
        WeightsError: for what is no checkpoint.
        DataError: where the run's images cannot be had.
    """
    if int8 and to != "onnx":
        raise ExportError(f"--int8: goes with --to onnx, not with --to {to}; leave one of them out")
    place = (file or default_place(checkpoint, to, int8=int8)).expanduser()
    if file is None and place.parent.is_symlink():
        raise ExportError(f"{place.parent}: is a link, and nothing is written through one; name the file with -o")
    _check_place(place, to)
    task, config, metadata = load_task(checkpoint, trust=trust)
    network, described = used(task, config, metadata)
    source = Source(task, config, metadata, network, described)
    data = data_of(metadata, words, trust=trust)
    write = writer(to, source, training_images(data, IMAGES) if int8 else None)
    with _drafts(place) as draft:
        write(draft, described)
        both = answered(PyTorch(network), computed(to, draft, source), data.val_dataloader(), described.outputs[0])
        if not both.difference <= (math.inf if int8 else LIMIT):  # so that what is no number is refused, too
            raise ExportError(
                f"the exported model's outputs differ from the original's by {both.difference:.2g} of the largest; "
                f"in fp32 no more than {LIMIT:g} is taken, and nothing is written; use --to safetensors"
            )
        found = _compared(source, both, data)
        # an int8 file computes other numbers, and with other images for its ranges others again
        key = hashlib.blake2b(draft.read_bytes(), digest_size=16).hexdigest() if int8 else described.key
        record: dict[str, Any] = {
            "format": to, "precision": "int8" if int8 else "fp32", "source_sha256": _sha256(checkpoint),
            "versions": _versions(), **{key: value for key, value in asdict(found).items() if key != "calibration"},
        }  # fmt: skip
        if to == "onnx":  # which another runtime computes
            record["latency_ms"] = latencies(
                {"before": PyTorch(network), "after": load(draft, device="cpu", threads=1).runtime},
                described.preprocessing.image_size,
            )
        said = replace(
            described,
            calibration=found.calibration,
            key=key,
            provenance={**described.provenance, "export": record},
        )
        write(draft, said)
        mean, std = task.backbone.normal
        beside = asdict(said) | ({"normalise": {"mean": mean, "std": std}} if to == "torchvision" else {})
        write_text(json_file(draft), json.dumps(beside, indent=2) + "\n")
    written = [one for one in (json_file(place), head_file(place)) if one.exists()]
    return Exported(place, written, said, found, described)


def default_place(checkpoint: Path, to: str, *, int8: bool) -> Path:
    """In the folder `exports` of its run."""
    given = checkpoint.expanduser()
    if given.is_dir():
        run, name = given, RunDir(given).best.stem
    else:
        run, name = given.parent.parent if given.parent.name == "checkpoints" else given.parent, given.stem
    return RunDir(run).exports / f"{name}{'-int8' if int8 else ''}{SUFFIXES[to][0]}"


def json_file(file: Path) -> Path:
    """Where it lies what an exported file says of itself, for those who cannot ask it."""
    return file.with_name(f"{file.name}.json")


def _compared(source: Source, found: Answered, data: StagedData) -> Comparison:
    settings = source.config.task
    if isinstance(settings, ClassifierSettings):
        return compare_classifier(found, settings)
    assert isinstance(settings, SiameseSettings)  # there is no third task
    assert isinstance(source.task, SiameseTask)
    source.task.pairs = stacked(data.pairs)
    return compare_siamese(found, source.task, settings, source.description.sameness())


def _check_place(file: Path, to: str) -> None:
    """Raise `ExportError` where a file of the format cannot be written without losing another."""
    if file.suffix not in SUFFIXES[to]:
        raise ExportError(f"{file}: a file of --to {to} ends in {' or '.join(SUFFIXES[to])}; name it so with -o")
    for one in (file, json_file(file), *([head_file(file)] if to == "torchvision" else [])):
        if one.exists():
            raise ExportError(f"{one}: is there already; remove it, or name another file with -o")


@contextmanager
def _drafts(file: Path) -> Iterator[Path]:
    """A file of that name in a folder beside it; all that is in there takes its place in the end, unless it fails."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".export-", dir=file.parent) as folder:
            draft = Path(folder) / file.name
            yield draft
            for one in sorted(Path(folder).iterdir(), key=lambda one: one == draft):  # the model last
                os.replace(one, file.with_name(one.name))
    except OSError as error:  # no such folder, none to write in, a disk that is full
        raise ExportError(
            f"{file}: cannot be written there ({error.strerror}); name another place with -o"
        ) from error


def _sha256(checkpoint: Path) -> str:
    given = checkpoint.expanduser()
    with (RunDir(given).best if given.is_dir() else given).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    """Of what has written it, where it is installed."""
    found = {"stagetune": __version__}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
