"""The kinds of files that come from elsewhere: an example of each, made here, and what reads it."""

import csv
import io
import json
import zlib
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from mutations import BINARY, CHECKPOINT, JSON, ONNX, SAFETENSORS, TEXT, YAML, Format
from stagetune.artifacts import METADATA, CheckpointMetadata, RunDir
from stagetune.cache import store as cache_store
from stagetune.config.compose import compose
from stagetune.config.resume import resumed
from stagetune.data.image_files import Entry, ImageFiles
from stagetune.data.sources.cub import cub
from stagetune.data.sources.identity_csv import identity_csv
from stagetune.data.sources.lfw import lfw
from stagetune.data.sources.pairs import pairs_csv
from stagetune.data.sources.sop import sop
from stagetune.errors import DataError
from stagetune.evaluation.oneshot_runs import errors, hausdorff, read_runs
from stagetune.inference.checkpoint import load_task
from stagetune.inference.description import Preprocessing
from stagetune.inference.export.safetensors import NETWORK, network_text
from stagetune.inference.gallery import Gallery
from stagetune.inference.load import load, used
from stagetune.inference.transform import Transform
from stagetune.models.own import own_backbone
from stagetune.models.weights import file_weights, load_into
from stagetune.report import page
from stagetune.report.commands import show_best, show_report
from stagetune.run.checkpoints import read_last
from stagetune.run.experiment import run_experiment
from stagetune.run.planning import make_plan
from stagetune.run.resume import check_same
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.load import load_schedule
from stagetune.schedule.model import Model, Parameter
from stagetune.schedule.resumable import check_resumable
from stagetune.schedule.table import plan_text

SIZE = 16
NETWORK_SETTINGS = [  # of a model of a few kilobytes that anybody's torch can build
    "model._target_=torch.nn.Sequential",
    "model._args_=[{_target_:torch.nn.Conv2d,in_channels:3,out_channels:4,kernel_size:3},{_target_:torch.nn.BatchNorm2d,"
    "num_features:4},{_target_:torch.nn.Conv2d,in_channels:4,out_channels:6,kernel_size:3}]",
    "model.blocks={low:['0','1'],high:['2']}",
]  # fmt: skip
SCHEDULE = [
    {"name": "head", "open": ["head"], "epochs": 1, "lr": 1e-2, "batch_norm": "frozen"},
    {"name": "few", "open": [{"last": 2}, {"index": "2:3"}], "steps": 20, "lr_range": [1e-5, 1e-3],
     "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3, "interval": "epoch"}},
    {"name": "all", "open": ["all"], "until": {"monitor": "val/loss", "patience": 2, "min_delta": 0.1}, "lr": 1e-3,
     "lrs": {"layer1": 1e-4, "match:*.bn*": 1e-5}, "lr_scheduler": "cosine", "warmup": 0.5},
    {"name": "less", "freeze": ["stem"], "epochs": 1, "lr": 1e-4},
]  # fmt: skip
PHASES = {
    0: {"params": ["head.*"], "max_transition_epoch": 3, "lr": 1e-3},
    1: {"params": [r"backbone.layer1.\d.conv.*"], "max_transition_epoch": 9},
    2: {
        "params": ["backbone.stem.conv.weight"],
        "new_lr_scheduler": {
            "lr_scheduler_init": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}},
            "pl_lrs_cfg": {"interval": "epoch", "frequency": 1, "name": "x"},
            "init_pg_lrs": [2.0e-06, 2.0e-06],
        },
        "lr": 1e-4,
    },
}


@dataclass(frozen=True)
class Seed:
    """A file that is read, and those that lie beside it, by their paths."""

    file: str
    files: dict[str, bytes]
    form: Format


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        seeds: examples of it; given the folder of `runs`.
        read: whatever reads it, as a person's command would; given the path of the file.
    """

    seeds: Callable[[Path], list[Seed]]
    read: Callable[[Path], object]


def make_runs(folder: Path) -> None:
    """A run of a classifier and one of a siamese, as small as they can be."""
    common = [
        "precision=fp32", "trainer=cpu", *NETWORK_SETTINGS, f"data.image_size={SIZE}", "schedule=full",
        "schedule.stages.0.epochs=1", "+trainer.limit_train_batches=2", "cache.features=off",
    ]  # fmt: skip
    with redirect_stdout(io.StringIO()):
        for name in ("classifier", "siamese"):
            run_experiment([f"+experiment={name}_staged", *common], folder / name)


def _bytes(write: Callable[[Any], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _picture(number: int = 0, form: str = "png", mode: str = "RGB", side: int = 12, **more: Any) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    pixels[2:5, 3:9] = 0
    return _bytes(lambda file: Image.fromarray(pixels).convert(mode).save(file, form, **more))


def _below(folder: Path) -> dict[str, bytes]:
    """All small files of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size < 10**6
    }


def _images(_: Path) -> list[Seed]:
    """One of each format that this Pillow can write, in the modes that it takes."""
    Image.init()
    found = []
    for form in sorted(Image.SAVE.keys() & Image.OPEN.keys()):
        for mode in (
            "RGB",
            *(("P", "L", "1", "RGBA", "I;16", "F", "CMYK", "LA") if form in ("PNG", "TIFF") else "L"),
        ):
            try:
                data = _picture(0, form, mode, 32 if form in ("ICO", "ICNS") else 12)
                Image.open(io.BytesIO(data)).load()
            except Exception:  # no such mode in it
                continue
            found.append(Seed(f"x.{form.lower()}", {f"x.{form.lower()}": data}, BINARY))
    exif = Image.Exif()
    exif[0x0112] = 6
    more = [
        _picture(1, "JPEG", exif=exif),
        _picture(1, "JPEG", progressive=True, side=40),
        _picture(1, "PNG", "RGBA"),
    ]
    more += [_picture(2, "GIF", "P", save_all=True, append_images=[Image.new("P", (9, 9))], transparency=0)]
    more += [_picture(2, "TIFF", compression="tiff_lzw"), _picture(2, "TIFF", compression="tiff_adobe_deflate")]
    return [one for one in [*found, *(Seed("x.png", {"x.png": data}, BINARY) for data in more)] if _is_read(one)]


def _is_read(seed: Seed) -> bool:
    """Whether it is an image that is taken; some are refused as they are."""
    with TemporaryDirectory() as folder:
        path = Path(folder, seed.file)
        path.write_bytes(seed.files[seed.file])
        try:
            _read_image(path)
        except DataError:
            return False
        return True


def _read_image(path: Path) -> None:
    files = ImageFiles("images", "images", [Entry(path, "a")])
    files.image(0)
    Transform(Preprocessing(SIZE))(path)


def _table(*rows: tuple[object, ...], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


def _pictures(count: int) -> dict[str, bytes]:
    return {f"{i}.png": _picture(i) for i in range(count)}


def _tables(_: Path) -> list[Seed]:
    plain = _table(("path", "identity"), *((f"{i}.png", f"id{i // 2}") for i in range(6)))
    whole = _table(
        ("path", "identity", "split", "group", "note"),
        *((f"{i}.png", f"Anna, Ü{i}", ("train", "val", "test")[i % 3], f"g{i}", '"') for i in range(6)),
    )
    return [Seed("table.csv", {"table.csv": data, **_pictures(6)}, TEXT) for data in (plain, whole)]


def _pairs(_: Path) -> list[Seed]:
    lines = [("0.png", "1.png", 1, "train", 0), ("2.png", "3.png", 0, "val", 1), ("4.png", "5.png", 1, "test", 2)]
    tables = [
        _table(("a", "b", "is_same", "split", "fold"), *lines),
        _table(("a", "b", "is_same"), *(x[:3] for x in lines)),
    ]
    return [Seed("pairs.csv", {"pairs.csv": data, **_pictures(6)}, TEXT) for data in tables]


def _lfw(_: Path) -> list[Seed]:
    lines = ["3\t1"]
    for i in range(3):
        lines += [f"ann{i}\t1\t2", f"ann{i}\t1\tbob{i}\t1"]
    images = {f"root/lfw-py/lfw/{n}{i}/{n}{i}_000{k}.jpg": _picture(i, "JPEG")
              for i in range(3) for n, k in (("ann", 1), ("ann", 2), ("bob", 1))}  # fmt: skip
    file = "root/lfw-py/pairs.txt"
    return [Seed(file, {file: "\n".join(lines).encode(), **images}, TEXT)]


def _oneshot(_: Path) -> list[Seed]:
    lines = [f"run01/test/{i}.png run01/training/{i}.png" for i in range(3)]
    images = {f"run01/{part}/{i}.png": _picture(i, mode="1") for part in ("test", "training") for i in range(3)}
    file = "run01/class_labels.txt"
    whole = {file: "\n".join(lines).encode(), **images}
    return [Seed(file, whole, TEXT), Seed("run01/test/0.png", whole, BINARY)]


def _read_oneshot(path: Path) -> None:
    errors(read_runs(next(above for above in path.parents if (above / "run01").is_dir())), hausdorff)


def _cub(_: Path) -> list[Seed]:
    lists = {
        "classes.txt": [f"{i} 00{i}.bird" for i in (1, 2)], "images.txt": [f"{i} a/{i} x.jpg" for i in range(1, 5)],
        "image_class_labels.txt": [f"{i} {1 + i % 2}" for i in range(1, 5)],
        "train_test_split.txt": [f"{i} {i % 2}" for i in range(1, 5)],
    }  # fmt: skip
    files = {name: "\n".join(lines).encode() for name, lines in lists.items()}
    return [Seed(name, files, TEXT) for name in files]


def _sop(_: Path) -> list[Seed]:
    lines = ["image_id class_id super_class_id path", *(f"{i} {i // 2} 1 chair_final/{i}.JPG" for i in range(1, 5))]
    files = {f"Ebay_{part}.txt": "\n".join(lines).encode() for part in ("train", "test")}
    return [Seed(name, files, TEXT) for name in files]


def _model() -> Model:
    names = {"stem": ("stem.conv.weight", "stem.bn.weight"),
             "layer1": ("layer1.0.conv1.weight", "layer1.0.bn1.weight"),
             "layer2": ("layer2.0.conv1.weight", "layer2.0.conv2.weight")}  # fmt: skip
    parameters = [
        Parameter(f"backbone.{name}", block, 9, 4, norm="bn" in name)
        for block, inner in names.items()
        for name in inner
    ]
    head = [Parameter("head.weight", "head", 6, 2), Parameter("head.bias", "head", 3, 1)]
    return Model(tuple(names), (*parameters, *head))


def _schedules(_: Path) -> list[Seed]:
    named = {"name": "mine", "monitor": "val/loss", "mode": "min", "leave_frozen": True, "stages": SCHEDULE}
    recipe = {"backbone_finetuning": {"unfreeze_backbone_at_epoch": 2, "epochs": 5, "lr": 1e-3}}
    files = [
        yaml.safe_dump(one, sort_keys=False).encode()
        for one in (named, {"leave_frozen": True, "stages": SCHEDULE[:1]}, recipe)
    ]
    return [Seed("mine.yaml", {"mine.yaml": data}, YAML) for data in files]


def _phases(_: Path) -> list[Seed]:
    return [Seed("phases.yaml", {"phases.yaml": yaml.safe_dump(PHASES).encode()}, YAML)]


def _read_schedule(path: Path) -> None:
    schedule = load_schedule(path, monitor="val/loss", blocks=["stem", "layer1", "layer2"], metrics=["val/loss"])
    plan_text(make_plan(schedule, _model()))
    json.dumps(asdict(schedule))  # as it is stored and hashed


def _checkpoints(runs: Path) -> list[Seed]:
    best = [(runs / name / "checkpoints" / "best.ckpt").read_bytes() for name in ("classifier", "siamese")]
    return [Seed("best.ckpt", {"best.ckpt": data}, CHECKPOINT) for data in best]


def _use(path: Path) -> None:
    """Load a model and ask it for an answer."""
    model = load(path, device="cpu", threads=1 if path.suffix == ".onnx" else None)
    image = np.zeros((9, 9, 3), np.uint8)
    model.predict(image) if model.description.task == "classifier" else model.verify(image, image)


def _lasts(runs: Path) -> list[Seed]:
    return [Seed("checkpoints/last.ckpt", _run_files(runs / name), CHECKPOINT) for name in ("classifier", "siamese")]


def _run_files(folder: Path) -> dict[str, bytes]:
    kept = ("config.yaml", "result.json", "metrics.csv", "predictions.csv", "cache.json", "checkpoints/last.ckpt")
    return {name: data for name, data in _below(folder).items() if name in kept}


@cache
def _known(config: Path, content: bytes) -> Any:
    """The configuration of a run, and its plan: they are the same in every case."""
    found = resumed(config.parent, _composed(), [])
    return found, make_plan(found)


@cache
def _composed() -> dict[str, Any]:
    return asdict(compose([])) | {"resume_with_new_schedule": False}


def _read_last(path: Path) -> None:
    """What a run that goes on reads of its checkpoint before it trains."""
    run = RunDir(path.parents[1])
    config, plan = _known(run.config, run.config.read_bytes())
    last = read_last(run)
    assert last is not None
    check_same(CheckpointMetadata.of(last).config, asdict(config))
    check_resumable(last["callbacks"][StagedUnfreezing.__name__], plan, accepts_new=False)


def _backbone() -> Any:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)]
    return own_backbone(nn.Sequential(*layers), [*"012"], SIZE)


def _weights(_: Path) -> list[Seed]:
    state = {name.removeprefix("network."): value for name, value in _backbone().state_dict().items()}
    wrapped = {"epoch": 3, "model": {f"module.{name}": value for name, value in state.items()}, "args": {"lr": 0.1}}
    found = [Seed("x.pth", {"x.pth": _saved(one)}, CHECKPOINT) for one in (state, wrapped)]
    old = _saved(state, _use_new_zipfile_serialization=False)
    return [
        *found,
        Seed("x.pt", {"x.pt": old}, BINARY),
        Seed("x.safetensors", {"x.safetensors": _tensors(state, {})}, SAFETENSORS),
    ]


def _saved(content: Any, **more: Any) -> bytes:
    return _bytes(lambda file: torch.save(content, file, **more))


def _tensors(state: dict[str, Any], said: dict[str, str]) -> bytes:
    from safetensors.torch import save

    return bytes(save({name: value.clone() for name, value in state.items()}, said))


def _read_weights(path: Path) -> None:
    load_into(_backbone(), file_weights(path))


def _caches(_: Path) -> list[Seed]:
    with TemporaryDirectory() as folder:
        store = cache_store.Store(Path(folder), memory_gb=0, disk_gb=1, say=print)
        store.put("key", torch.arange(24, dtype=torch.float16).view(4, 6))
        files = {name: data for name, data in _below(Path(folder)).items() if not name.endswith("lock")}
    return [Seed("key.json", files, JSON), Seed("key.json", files, JSON), Seed("key.bin", files, BINARY)]


def _read_cache(path: Path) -> None:
    said: list[str] = []
    cache_store.forget()
    store = cache_store.Store(path.parent, memory_gb=1, disk_gb=1, say=said.append)
    store.remove_abandoned()
    if store.get("key") is None:  # it is computed anew
        raise DataError("; ".join(said))


def _sweeps(file: str, form: Format) -> Callable[[Path], list[Seed]]:
    """A sweep of two settings, the better over two seeds, of which a file is changed."""

    def seeds(runs: Path) -> list[Seed]:
        files, jobs = {}, {}
        run = _run_files(runs / "classifier")
        run.pop("checkpoints/last.ckpt")
        for rate, seed in ((0.0, 0), (0.1, 0), (0.1, 1)):
            name = f"wd-{rate}/seed-{seed}"
            config, result = yaml.safe_load(run["config.yaml"]), json.loads(run["result.json"])
            config["seed"] = result["seed"] = seed
            config["optimizer"]["weight_decay"] = rate
            result["best"]["value"] += rate + seed / 10
            changed = {"config.yaml": yaml.safe_dump(config).encode(), "result.json": json.dumps(result).encode()}
            files |= {f"{name}/{inner}": data for inner, data in (run | changed).items()}
            jobs[name] = ["+experiment=classifier_staged", f"optimizer.weight_decay={rate}", f"seed={seed}"]
        files["sweep.json"] = json.dumps({"schema_version": 1, "jobs": jobs}).encode()
        return [Seed(file, files, form)]

    return seeds


def _read_sweep(path: Path) -> None:
    """The report, and the winner; the pictures, which take a second, of a few."""
    folder = next(above for above in path.parents if (above / "wd-0.1").is_dir())
    drawn = page.pictures
    if zlib.crc32(path.read_bytes()) % 20:
        page.pictures = lambda summary: {}
    try:
        with redirect_stdout(io.StringIO()):
            show_report(folder, [])
            show_best(folder)
    finally:
        page.pictures = drawn


def _configs(runs: Path) -> list[Seed]:
    return [Seed("config.yaml", _run_files(runs / name), YAML) for name in ("classifier", "siamese")]


def _read_config(path: Path) -> None:
    resumed(path.parent, _composed(), [])


def _galleries(_: Path) -> list[Seed]:
    with TemporaryDirectory() as folder:
        gallery = Gallery.create(folder, model="7f2c", distance="euclidean", dimensions=2)
        gallery.add(["ada", "bob"], [[1, 0], [0, 1]], ["ada/1.png", "bob/1.png"])
        gallery.save()
        files = {name: data for name, data in _below(Path(folder)).items() if not name.endswith("lock")}
    vectors = next(name for name in files if name.endswith("safetensors"))
    return [Seed("gallery.json", files, JSON), Seed(vectors, files, SAFETENSORS)]


def _read_gallery(path: Path) -> None:
    gallery = Gallery.open(path.parent)
    gallery.search([[0.8, 0.6]], k=1)
    gallery.search([[0.8, 0.6]], k=1, per_identity="mean")
    gallery.add(["zoe"], [[0.0, 1.0]], ["z.png"])
    gallery.save()


def _exports(runs: Path) -> list[Seed]:
    found = []
    for name in ("classifier", "siamese"):
        task, config, metadata = load_task(runs / name)
        network, described = used(task, config, metadata)
        said = {METADATA: described.to_json(), NETWORK: network_text(config, metadata, described)}
        found.append(Seed("x.safetensors", {"x.safetensors": _tensors(task.state_dict(), said)}, SAFETENSORS))
        found.append(
            Seed("x.onnx", {"x.onnx": _onnx(network.outputs, len(metadata.classes), described.to_json())}, ONNX)
        )
    return found


def _onnx(outputs: tuple[str, ...], classes: int, said: str) -> bytes:
    """A network of one layer: the mean colour, and scores of it."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "sides"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], [outputs[0]]),
        helper.make_node("Identity", ["mean"], ["features"]),
    ]  # fmt: skip
    matrix = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    values = [
        numpy_helper.from_array(np.array([2, 3], dtype=np.int64), "sides"),
        numpy_helper.from_array(matrix, "matrix"),
    ]
    graph = helper.make_graph(
        nodes[: 2 + len(outputs)],
        "network",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in outputs],
        values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model.metadata_props.add(key=METADATA, value=said)
    return bytes(model.SerializeToString())


KINDS = {
    "image": Kind(_images, _read_image),
    "identity_csv": Kind(_tables, identity_csv),
    "pairs": Kind(_pairs, pairs_csv),
    "lfw": Kind(_lfw, lambda path: lfw(path.parents[1])),
    "oneshot": Kind(_oneshot, _read_oneshot),
    "cub": Kind(_cub, lambda path: cub(path.parent, by="identities")),
    "sop": Kind(_sop, lambda path: sop(path.parent)),
    "schedule": Kind(_schedules, _read_schedule),
    "finetuning_scheduler": Kind(_phases, _read_schedule),
    "checkpoint": Kind(_checkpoints, _use),
    "resume": Kind(_lasts, _read_last),
    "weights": Kind(_weights, _read_weights),
    "initial": Kind(_checkpoints, _read_weights),
    "cache": Kind(_caches, _read_cache),
    "result": Kind(_sweeps("wd-0.1/seed-1/result.json", JSON), _read_sweep),
    "metrics": Kind(_sweeps("wd-0.1/seed-1/metrics.csv", TEXT), _read_sweep),
    "predictions": Kind(_sweeps("wd-0.1/seed-1/predictions.csv", TEXT), _read_sweep),
    "sweep": Kind(_sweeps("sweep.json", JSON), _read_sweep),
    "config": Kind(_sweeps("wd-0.1/seed-1/config.yaml", YAML), _read_sweep),
    "resumed_config": Kind(_configs, _read_config),
    "gallery": Kind(_galleries, _read_gallery),
    "export": Kind(_exports, _use),
}
