"""A model in other formats: the same answers, nothing of this machine, and nothing written that was not compared."""

import errno
import hashlib
import json
import os
import re
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torchvision.models import resnet18

import stagetune
from stagetune import cli
from stagetune.artifacts import METADATA, CheckpointMetadata
from stagetune.config.validate import read_config
from stagetune.errors import ConfigError, DataError, ExportError, MissingError, WeightsError
from stagetune.evaluation.calibration import Calibration
from stagetune.evaluation.confidence import Confidence
from stagetune.evaluation.pairs import evaluation_pairs
from stagetune.inference.checkpoint import load_task
from stagetune.inference.description import Description, description_of
from stagetune.inference.export import export as flow
from stagetune.inference.export.export import Exported, default_place, export
from stagetune.inference.export.program import exported
from stagetune.inference.export.torchvision import torchvision_states
from stagetune.inference.load import used
from stagetune.inference.model import TrainedModel
from stagetune.inference.needs import need
from stagetune.inference.network import Network
from stagetune.models.backbone import Backbone
from stagetune.run.build import build_task
from stagetune.run.data import build_data

CLASSES = ["blue", "green", "red"]
CONFIDENCE = Confidence(temperature=0.5, unknown=0.3, images=40)
CALIBRATION = Calibration("accuracy", threshold=0.4, far=0.125, tar=0.9, same=40, different=80, scale=9.0, bias=3.6)
SMALL = ("model=resnet18", "model.weights=random", "data=image_folder", "data.image_size=32", "data.num_workers=0")
EXPERIMENTS = {"classifier": "+experiment=classifier_staged", "siamese": "+experiment=siamese_staged"}
FORMATS = ("onnx", "int8", "torch-export", "safetensors", "torchvision")

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes, 20 images each, every image another."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (root / name).mkdir()
        for i in range(20):
            pixels = rng.integers(0, 120, (36, 32, 3), dtype=np.uint8)
            pixels[..., channel] += np.uint8(rng.integers(0, 130))
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def make(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a checkpoint of a network that never trained, but is as far from its beginning as if it had."""

    def checkpoint(task: str, *words: str) -> Path:
        config = stagetune.compose([EXPERIMENTS[task], *SMALL, f"data.root={photos}", *words])
        torch.manual_seed(0)
        made = build_task(config, config.model.build(32), len(CLASSES))
        for layer in made.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
        content: dict[str, Any] = {"state_dict": made.state_dict()}
        calibration = asdict(CONFIDENCE if task == "classifier" else CALIBRATION)
        CheckpointMetadata(asdict(config), CLASSES, f"{photos}/a.pt", calibration=calibration).put_into(content)
        file = tmp_path_factory.mktemp(task) / "checkpoints" / "best.ckpt"
        file.parent.mkdir()
        torch.save(content, file)
        return file

    return checkpoint


@pytest.fixture(scope="module")
def checkpoints(make: Make) -> dict[str, Path]:
    """Of a classifier with a linear head, and of a siamese run whose hidden head has dropout."""
    return {
        "classifier": make("classifier", "task.head=linear"),
        "siamese": make("siamese", "task.dropout=0.5"),
    }


@pytest.fixture(scope="module")
def done(checkpoints: dict[str, Path]) -> Callable[[str, str], Exported]:
    """What was exported of a task in a format, each once."""
    known: dict[tuple[str, str], Exported] = {}

    def of(task: str, to: str) -> Exported:
        if (task, to) not in known:
            is_int8 = to == "int8"
            known[task, to] = export(checkpoints[task], to="onnx" if is_int8 else to, int8=is_int8)
        return known[task, to]

    return of


@pytest.fixture(scope="module")
def originals(checkpoints: dict[str, Path]) -> dict[str, TrainedModel]:
    return {task: stagetune.load(path, device="cpu") for task, path in checkpoints.items()}


@pytest.fixture(scope="module")
def squares(photos: Path, originals: dict[str, TrainedModel]) -> Tensor:
    return torch.stack([originals["siamese"].transform(file) for file in sorted(photos.rglob("1*.png"))])


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "to"),
    [
        *((task, to) for task in EXPERIMENTS for to in ("onnx", "openvino", "safetensors")),
        ("siamese", "torch-export"),
    ],
)
def test_its_answers_are_the_originals_in_batches_of_any_size(
    task: str, to: str, done: Any, originals: dict[str, TrainedModel], squares: Tensor, photos: Path
) -> None:
    """Whatever the batch was when it was exported; the head's dropout is off."""
    runtime = "openvino" if to == "openvino" else None
    file = done(task, "onnx" if runtime else to).file
    model = stagetune.load(file, runtime=runtime, device="cpu", trust=to == "torch-export")
    for count in (1, 2, 5):
        assert difference(model(squares[:count]), originals[task](squares[:count])) < 1e-5
    files = sorted(photos.rglob("1*.png"))[:7]
    np.testing.assert_allclose(model.embed(files), originals[task].embed(files), rtol=1e-4, atol=1e-5)
    if task == "classifier":
        answers, expected = (one.predict(files) for one in (model, originals[task]))
        assert [one.label for one in answers] == [one.label for one in expected]
    assert (model.classes, model.description.key) == (CLASSES, originals[task].description.key)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_in_8_bits_it_is_near_the_original(
    runtime: str, done: Any, originals: dict[str, TrainedModel], squares: Tensor
) -> None:
    """And has a key of its own, so that a gallery of the other's embeddings is not taken for its own."""
    found = done("siamese", "int8")
    model = stagetune.load(found.file, runtime=runtime)
    near = nn.functional.cosine_similarity(model(squares), originals["siamese"](squares))
    assert 0.99 < near.min() < 1 - 1e-7
    assert found.file.stat().st_size < 0.3 * done("siamese", "onnx").file.stat().st_size
    assert model.description.key[:12] != originals["siamese"].description.key[:12]  # as a message shows them
    assert found.comparison.max_difference > 1e-4


def validated(model: TrainedModel, checkpoint: Path) -> tuple[Any, Any]:
    """The model's outputs for the images of validation in the order of a run, and their classes."""
    data = build_data(read_config(load_task(checkpoint)[2].config))
    batches = list(data.val_dataloader())
    outputs = np.concatenate([model(batch.inputs).double().numpy() for batch in batches])
    return outputs, np.concatenate([batch.target.numpy() for batch in batches])


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "int8"])
def test_the_threshold_is_fitted_on_the_exported_model(to: str, done: Any, checkpoints: dict[str, Path]) -> None:
    """On the pairs of validation, of which no threshold tells more right."""
    found = done("siamese", to)
    model = stagetune.load(found.file)
    embeddings, identity = validated(model, checkpoints["siamese"])
    apart, same = [], []
    for one, other in zip(*evaluation_pairs(identity, 100_000), strict=True):
        apart.append(np.linalg.norm(embeddings[one] - embeddings[other]))
        same.append(identity[one] == identity[other])

    def right(threshold: float) -> int:
        return sum((distance <= threshold) == is_same for distance, is_same in zip(apart, same, strict=True))

    assert right(model.threshold) == max(map(right, apart)) > right(CALIBRATION.threshold)
    assert found.comparison.after == pytest.approx(roc_auc_score(same, -np.array(apart)), abs=1e-9)
    assert found.comparison.before == pytest.approx(found.comparison.after, abs=0.05)


@pytest.mark.slow
def test_the_temperature_is_fitted_on_the_exported_model(done: Any, checkpoints: dict[str, Path]) -> None:
    found = done("classifier", "onnx")
    model = stagetune.load(found.file)
    scores, labels = validated(model, checkpoints["classifier"])

    def cost(temperature: float) -> float:
        logs = log_softmax(scores / temperature, axis=1)
        return float(-logs[np.arange(len(labels)), labels].sum() + 0.5 * (np.log(temperature) / 0.5) ** 2)

    temperature = model.calibration["temperature"]
    assert cost(temperature) < min(cost(temperature * by) for by in (0.95, 1.05)) < cost(CONFIDENCE.temperature)
    assert found.comparison.after == (scores.argmax(axis=1) == labels).mean()
    assert found.comparison.images == len(labels)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "to"), [*(("siamese", to) for to in FORMATS), ("classifier", "onnx")])
def test_nothing_of_this_machine_is_in_a_file(task: str, to: str, done: Any, photos: Path) -> None:
    found = done(task, to)
    paths = [
        Path.cwd(),
        Path.home(),
        Path(sys.prefix),
        Path(stagetune.__file__).parent,
        photos,
        *site.getsitepackages(),
    ]
    marks = [str(path).encode() for path in paths if str(path) != "/"] + [b"site-packages", b"test_export"]
    for file in (found.file, *found.beside):
        contents = [file.read_bytes()]
        if file.suffix == ".pt2":
            with zipfile.ZipFile(file) as archive:
                contents += [archive.read(name) for name in archive.namelist()]
        assert [mark for mark in marks for content in contents if mark in content] == []


@pytest.mark.slow
@pytest.mark.parametrize("to", FORMATS)
def test_what_it_says_of_itself_lies_beside_it_and_within(
    to: str, done: Any, checkpoints: dict[str, Path], originals: dict[str, TrainedModel]
) -> None:
    found = done("siamese", to)
    beside = json.loads(found.file.with_name(f"{found.file.name}.json").read_text())
    record = beside["provenance"]["export"]
    assert record["source_sha256"] == hashlib.sha256(checkpoints["siamese"].read_bytes()).hexdigest()
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["before"] == found.comparison.before
    assert record["max_difference"] == found.comparison.max_difference
    assert (beside["classes"], beside["calibration"]) == (CLASSES, found.comparison.calibration)
    assert beside["preprocessing"] == asdict(originals["siamese"].description.preprocessing)
    if to == "torchvision":
        np.testing.assert_allclose(beside["normalise"]["mean"], (0.485, 0.456, 0.406))
    else:
        within = stagetune.load(found.file, trust=True, device="cpu").description
        assert json.loads(within.to_json()) == beside
    assert sorted(found.file.parent.glob(".export-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "int8"])
def test_older_readers_can_read_the_onnx_file(to: str, done: Any) -> None:
    model = onnx.load(done("siamese", to).file, load_external_data=False)
    onnx.checker.check_model(model)
    assert model.ir_version == 8
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert "Dropout" not in {node.op_type for node in model.graph.node}
    (given,) = model.graph.input
    assert [side.dim_param or side.dim_value for side in given.type.tensor_type.shape.dim] == ["batch", 3, 32, 32]
    assert [one.name for one in model.graph.output] == ["embeddings"]
    assert [one.key for one in model.metadata_props] == [METADATA]
    assert not [one for one in model.graph.initializer if one.external_data]


@pytest.mark.slow
def test_torchvision_takes_a_linear_classifier(
    done: Any, originals: dict[str, TrainedModel], squares: Tensor
) -> None:
    network = resnet18(num_classes=3)
    network.load_state_dict(torch.load(done("classifier", "torchvision").file, weights_only=True), strict=True)
    assert difference(_by_torchvision(network, squares), originals["classifier"](squares)) < 1e-5


@pytest.mark.slow
def test_torchvision_takes_the_backbone_of_a_siamese_run(
    done: Any, originals: dict[str, TrainedModel], squares: Tensor
) -> None:
    found = done("siamese", "torchvision")
    network = resnet18()
    network.fc = nn.Identity()
    network.load_state_dict(torch.load(found.file, weights_only=True), strict=True)
    features = _by_torchvision(network, squares)
    head = torch.load(found.file.with_name("best.head.pt"), weights_only=True)
    hidden = (features @ head["layers.0.weight"].T + head["layers.0.bias"]).relu()
    embeddings = nn.functional.normalize(hidden @ head["layers.3.weight"].T + head["layers.3.bias"])
    assert difference(embeddings, originals["siamese"](squares)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["task.head=hidden"], "its head has a hidden layer"),
        (["task.head=linear", "model.stem=small_images"], "model.stem=small_images"),
        (
            ["task.head=linear", "model.pooled=[layer3,layer4]"],
            r"its features are those of several layers \(model.pooled=\['layer3', 'layer4'\]\)",
        ),
        (["task.head=linear", "model=mobilenet_v3_small"], "the backbone is mobilenet_v3_small"),
    ],
)
def test_what_torchvision_has_no_place_for_is_refused_by_name(words: list[str], named: str, make: Make) -> None:
    checkpoint = make("classifier", *words)
    with pytest.raises(ExportError, match=f"--to torchvision: {named}.*use --to onnx or safetensors"):
        export(checkpoint, to="torchvision")
    assert list(checkpoint.parents[1].rglob("*.pt")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("by", "is_written"), [(1 + 5e-5, True), (1 + 2e-4, False), (float("nan"), False)])
def test_outputs_beyond_the_limit_are_refused(
    by: float, is_written: bool, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(to: str, file: Path, source: Any) -> Any:
        assert file.exists()
        right = flow.PyTorch(source.network)
        return lambda images: {name: value * np.float32(by) for name, value in right(images).items()}

    monkeypatch.setattr(flow, "computed", off)
    file = tmp_path / "exports" / "model.safetensors"
    if is_written:
        assert export(checkpoints["siamese"], to="safetensors", file=file).comparison.max_difference > 4e-5
    else:
        with pytest.raises(
            ExportError, match=r"differ from the original's by .*no more than 0.0001 is taken, and nothing is written"
        ):
            export(checkpoints["siamese"], to="safetensors", file=file)
    left = {path.name for path in file.parent.iterdir()}
    assert left == ({"model.safetensors", "model.safetensors.json"} if is_written else set())


def test_no_file_is_lost(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    run = checkpoints["siamese"].parents[1]
    assert default_place(run, "onnx", int8=True) == run / "exports" / "best-int8.onnx"
    assert default_place(checkpoints["siamese"], "torchvision", int8=False) == run / "exports" / "best.pt"
    assert default_place(tmp_path / "mine.ckpt", "onnx", int8=False) == tmp_path / "exports" / "mine.onnx"
    for name in ("a.pt", "a.pt.json", "a.head.pt"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ExportError, match=f"{name}: is there already; remove it, or name another file with -o"):
            export(checkpoints["siamese"], to="torchvision", file=tmp_path / "a.pt")
        (tmp_path / name).unlink()
    with pytest.raises(ExportError, match=r"a.bin: a file of --to onnx ends in .onnx; name it so with -o"):
        export(checkpoints["siamese"], to="onnx", file=tmp_path / "a.bin")
    with pytest.raises(ExportError, match="--int8: goes with --to onnx, not with --to safetensors"):
        export(checkpoints["siamese"], to="safetensors", int8=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match=r"a.pt: cannot be written there \(No space left on device\); name another"):
        export(checkpoints["classifier"], to="torchvision", file=tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_images_may_have_moved(checkpoints: dict[str, Path], photos: Path, make: Make, tmp_path: Path) -> None:
    content = torch.load(checkpoints["siamese"], weights_only=True)
    content[METADATA]["config"]["data"]["root"] = str(tmp_path / "gone")
    torch.save(content, tmp_path / "moved.ckpt")
    file = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match=r"run's own images, and they cannot be had: data.root=.*gone: is not there"):
        export(tmp_path / "moved.ckpt", to="safetensors", file=file)
    with pytest.raises(ConfigError, match=r"model.arch=x: only what reads the data can be said here"):
        export(tmp_path / "moved.ckpt", to="safetensors", file=file, words=["model.arch=x"])
    assert not file.exists()
    shutil.copytree(photos, tmp_path / "there")
    found = export(tmp_path / "moved.ckpt", to="safetensors", file=file, words=[f"data.root={tmp_path / 'there'}"])
    assert found.comparison.max_difference == 0
    assert found.comparison.images == 12


@pytest.mark.slow
def test_a_model_is_called_with_what_its_transform_gives_only(
    done: Any, originals: dict[str, TrainedModel], squares: Tensor
) -> None:
    """OpenVINO casts what it gets: a float image between 0 and 1 would be black."""
    pixels = squares.numpy()
    wrong = {
        "float32": pixels / np.float32(255), "bool": pixels > 9, r"\[3, 32, 32\]": pixels[0],
        r"32, 3\]": pixels.transpose(0, 2, 3, 1), r"\[0, 3": pixels[:0], "16": pixels[..., :16], "list": [1],
    }  # fmt: skip
    file = done("siamese", "onnx").file
    for model in (stagetune.load(file), stagetune.load(file, runtime="openvino"), originals["siamese"]):
        for said, images in wrong.items():
            with pytest.raises(DataError, match=rf"{said}.*: a model is called with uint8 \[n, 3, 32, 32\]"):
                model(images)  # type: ignore[arg-type]


@pytest.mark.slow
def test_settings_of_loading_are_checked(done: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = done("siamese", "onnx").file
    for settings in ({"batch_size": 0}, {"batch_size": 2.5}, {"threads": -1}, {"threads": "2"}):
        with pytest.raises(WeightsError, match=r"(batch_size|threads)=.*: give a whole number, 1 or more"):
            stagetune.load(file, **settings)
    for name in ("a.onnx", "a.pt2", "a.safetensors", "a"):
        with pytest.raises(WeightsError, match=rf"{name}: does not exist \(looked in"):
            stagetune.load(tmp_path / name, trust=True)
    shutil.copy(file, tmp_path / "A.ONNX")
    assert stagetune.load(tmp_path / "A.ONNX", runtime="openvino").runtime.name == "openvino"
    with zipfile.ZipFile(tmp_path / "a.pt2", "w") as archive:
        archive.writestr("data", "mine")
    (tmp_path / "a.onnx").write_bytes(b"PK mine")
    for name in ("a.pt2", "a.onnx"):
        with pytest.raises(WeightsError, match="damaged or of another kind"):
            stagetune.load(tmp_path / name, trust=True, runtime="openvino" if name == "a.onnx" else None)
    assert capfd.readouterr() == ("", "")  # the libraries print tracebacks


def test_an_edited_description_is_refused() -> None:
    said = {
        "classifier": Description("classifier", CLASSES, calibration=asdict(CONFIDENCE)),
        "siamese": Description("siamese", CLASSES, distance="cosine", calibration=asdict(CALIBRATION)),
    }
    for task, key, value, match in (
        ("classifier", "temperature", 0, "calibration.temperature=0: must be above 0"),
        ("classifier", "temperature", "1", "calibration.temperature: expects a number, got '1'"),
        ("classifier", "temperature", float("nan"), "NaN is no number"),
        ("classifier", "more", 1, "calibration.more: no such key"),
        ("siamese", "threshold", None, "calibration.threshold: expects a number, got None"),
        ("siamese", "scale", float("inf"), "Infinity is no number"),
    ):
        edited = replace(said[task], calibration={**(said[task].calibration or {}), key: value})
        with pytest.raises(WeightsError, match=match):
            Description.from_json(edited.to_json())
    with pytest.raises(WeightsError, match=r"calibration: is missing; distance: is missing"):
        Description.from_json(replace(said["siamese"], distance=None, calibration=None).to_json())
    assert all(Description.from_json(one.to_json()) == one for one in said.values())


@pytest.mark.slow
def test_as_many_classes_as_scores(originals: dict[str, TrainedModel]) -> None:
    right = originals["classifier"]
    for classes in (CLASSES[:2], [*CLASSES, "more"]):
        model = TrainedModel(right.runtime, replace(right.description, classes=classes))
        with pytest.raises(WeightsError, match=r"gives 3 scores and says that it has [24] classes; export it again"):
            model.predict(np.zeros((9, 9, 3), np.uint8))


@pytest.mark.slow
def test_words_say_where_images_lie_and_nothing_else(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Of another division some would have been trained on, and of another size the threshold would not hold."""
    for word, match in (
        ("data.val=0.5", "which images validation has, and how they look, is as in training"),
        ("data.seed=3", "is as in training"),
        ("data.image_size=64", "is as in training"),
        ("data.centred=true", "is as in training"),
        ("data.root=[x", "cannot be read; quote the value twice"),
        ("data.root=a,b", "cannot be read; quote the value twice"),
        ("data.root.more=1", "data.root: expects text"),
        ("data.root", "only what reads the data can be said here"),
    ):
        with pytest.raises(ConfigError, match=match):
            export(checkpoints["siamese"], to="safetensors", file=tmp_path / "a.safetensors", words=[word])


def test_no_part_of_a_path_with_spaces_is_kept(tmp_path: Path) -> None:
    given = "/home/jane doe/my runs/one"
    config = stagetune.compose([EXPERIMENTS["classifier"], *SMALL, f"data.root={tmp_path}"])
    config.model.weights = given
    described = description_of(config, CheckpointMetadata({}, CLASSES, f"{given} (its head is new)"), None)
    assert described.provenance["weights"] == "one (its head is new)"


@pytest.mark.slow
def test_code_that_a_checkpoint_names_does_not_read_its_data(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    content = torch.load(checkpoints["classifier"], weights_only=True)
    content[METADATA]["config"]["data"] = {"name": "own", "target": {"_target_": "theirs.Images"}, "image_size": 32}
    torch.save(content, tmp_path / "theirs.ckpt")
    with pytest.raises(
        WeightsError, match=r"its data is read by theirs.Images, code that the checkpoint names.*--trust"
    ):
        export(tmp_path / "theirs.ckpt", to="safetensors")


@pytest.mark.slow
def test_a_pruned_network_is_none_of_torchvisions(checkpoints: dict[str, Path]) -> None:
    task, config, _ = load_task(checkpoints["classifier"])
    task.backbone.layer1[0].conv1 = nn.Conv2d(64, 48, 3, padding=1, bias=False)
    with pytest.raises(ExportError, match=r"layer1.0.conv1.weight is not as in torchvision's resnet18, 1 tensors"):
        torchvision_states(task, config)


@pytest.mark.slow
def test_a_network_that_runs_itself_is_exported(squares: Tensor) -> None:
    """A transformer of timm's, which has a layer called blocks."""
    torch.manual_seed(0)
    backbone = stagetune.compose(["model=timm", "model.arch=test_vit", "model.weights=random"]).model.build(32)
    network = Network(backbone, nn.Identity(), ("embeddings",))
    program = exported(network, 32).module()
    with torch.inference_mode():
        for count in (1, 5):
            assert difference(program(squares[:count])[0], network(squares[:count])[0]) < 1e-5


@pytest.mark.slow
def test_a_network_built_by_a_path_is_no_safetensors_file(make: Make, tmp_path: Path) -> None:
    task, config, metadata = load_task(make("classifier", "task.head=linear"))
    _, described = used(task, config, metadata)
    config.model.arch = str(tmp_path)
    with pytest.raises(
        ExportError, match=r"model.arch=.*: the network is built by a path of this machine; use --to onnx"
    ):
        flow.writer(
            "safetensors", flow.Source(task, config, metadata, Network(task.backbone, task.head, ()), described)
        )


class Branching(Backbone):
    """A network whose code asks for values."""

    out_features = 3

    def forward(self, inputs: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        features = inputs.float().mean(dim=(2, 3))
        return features if features.sum() > 0 else -features


def test_a_network_that_cannot_be_followed_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ExportError, match=r"cannot be exported for batches of any size \(.*data-dependent.*\); leave"
    ):
        exported(Network(Branching(), nn.Identity(), ("embeddings",)), 8)


@pytest.mark.slow
def test_a_program_is_read_only_where_it_is_trusted(done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = done("siamese", "torch-export").file  # which reads it, to compare

    def loaded(*_: Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(torch.export, "load", loaded)
    with pytest.raises(
        WeightsError, match=r"best.pt2: a program of torch.export can run commands.*trust=True \(--trust\)"
    ):
        stagetune.load(file)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("to", "runtime"), [("onnx", "onnxruntime"), ("onnx", "openvino"), ("torch-export", None), ("safetensors", None)]
)
def test_a_damaged_file_is_said_to_be_one(to: str, runtime: str | None, done: Any, tmp_path: Path) -> None:
    whole = done("siamese", to).file
    file = tmp_path / whole.name
    for content in (whole.read_bytes()[:5000], b"hello", b""):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=r"best\..*(damaged|says nothing of stagetune).*export it again"):
            stagetune.load(file, runtime=runtime, trust=True)
    file.unlink()
    with pytest.raises(WeightsError, match=r"best\..*(does not exist|cannot be read|damaged)"):
        stagetune.load(file, runtime=runtime, trust=True)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_somebody_elses_file_is_refused(runtime: str, done: Any, tmp_path: Path) -> None:
    model = onnx.load(done("siamese", "onnx").file)
    file = tmp_path / "model.onnx"
    said = Description.from_json(model.metadata_props[0].value)
    for text, match in (
        ("", "says nothing of stagetune, so its classes and threshold are unknown"),
        ("{}", "does not describe itself as a model of this project"),
        (replace(said, preprocessing=replace(said.preprocessing, image_size=64)).to_json(),
         r"takes images \[n, 3, 32, 32\], and says that it takes images \[n, 3, 64, 64\]"),
        (replace(said, task="classifier", calibration=asdict(CONFIDENCE)).to_json(), "gives embeddings"),
    ):  # fmt: skip
        del model.metadata_props[:]
        if text:
            model.metadata_props.add(key=METADATA, value=text)
        onnx.save(model, file)
        with pytest.raises(WeightsError, match=rf"model.onnx: .*{match}"):
            stagetune.load(file, runtime=runtime)


@pytest.mark.slow
def test_what_a_runtime_cannot_do_is_said(done: Any, checkpoints: dict[str, Path]) -> None:
    file = done("siamese", "onnx").file
    for settings, match in (
        ({"runtime": "pytorch"}, "runtime=pytorch: does not compute best.onnx; use onnxruntime or openvino"),
        ({"device": "cuda"}, "device=cuda: onnxruntime computes on the CPU"),
        ({"precision": "bf16"}, "precision=bf16: onnxruntime computes as the file says; use runtime=openvino"),
    ):
        with pytest.raises(WeightsError, match=match):
            stagetune.load(file, **settings)
    with pytest.raises(WeightsError, match="threads: PyTorch has one number for the whole process"):
        stagetune.load(checkpoints["siamese"], threads=1)
    with pytest.raises(MissingError, match=r"an .onnx file needs no_such_library; pip install 'stagetune\[export\]'"):
        need("no_such_library.of_ours", what="an .onnx file", extra="export")


@pytest.mark.slow
def test_openvino_computes_in_the_precision_that_is_asked_for(
    done: Any, originals: dict[str, TrainedModel], squares: Tensor
) -> None:
    """Its own choice would be bf16 where the CPU can."""
    file, expected = done("siamese", "onnx").file, originals["siamese"](squares)
    exact = stagetune.load(file, runtime="openvino", threads=1)
    rounded = stagetune.load(file, runtime="openvino", precision="bf16")
    assert difference(exact(squares), expected) < 1e-5
    assert difference(rounded(squares), expected) < 0.02
    assert (exact.runtime.about["threads"], rounded.runtime.about["precision"]) == (1, "bf16")


@pytest.mark.slow
def test_the_command_says_how_it_compares(
    checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(checkpoints["siamese"]), "--to", "safetensors", "-o", str(tmp_path / "a.safetensors")]
    cli.main(words)
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"exported   .*/a.safetensors \(46.\d MB\), with .*/a.safetensors.json\n"
        r"compared   on 12 validation images: largest difference 0.0e\+00 of the largest output, .*%.*\n"
        r"auc        0.\d{4} before, 0.\d{4} after\n"
        r"threshold  0.4000 before, \d.\d{4} fitted on the exported model\n"
        r"use it     .*stagetune verify .*/a.safetensors \.\.\.\n",
        said,
    )
    with pytest.raises(SystemExit, match="1"):
        cli.main(words)
    assert "stagetune: " in (error := capsys.readouterr().err)
    assert "is there already" in error


def _by_torchvision(network: nn.Module, squares: Tensor) -> Tensor:
    """Of images that are normalised outside, as torchvision wants it."""
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        found: Tensor = network.eval()((squares / 255 - mean) / std)
    return found


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the oldest onnxruntime that is supported, and neither torch nor stagetune."""
    folder = tmp_path_factory.mktemp("oldest")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    subprocess.run([*install, "onnxruntime==1.16.3", "numpy<2"], check=True)
    return python


@pytest.mark.cluster
@pytest.mark.parametrize("to", ["onnx", "int8"])
def test_onnxruntime_1_16_reads_it(to: str, oldest: Path, done: Any, squares: Tensor, tmp_path: Path) -> None:
    """The preprocessing and the threshold are in the file, for those who have nothing else."""
    found = done("siamese", to)
    np.save(tmp_path / "images.npy", squares.numpy())
    code = (
        "import json, sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "said = json.loads(session.get_modelmeta().custom_metadata_map['stagetune'])\n"
        "numpy.save('out.npy', session.run(['embeddings'], {'images': numpy.load('images.npy')})[0])\n"
        "print(onnxruntime.__version__, said['calibration']['threshold'], 'torch' in sys.modules)"
    )
    said = subprocess.run(
        [oldest, "-I", "-c", code, found.file], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert said.stdout.split() == ["1.16.3", str(found.comparison.calibration["threshold"]), "False"]
    newest = stagetune.load(found.file)(squares)
    # the kernels of 8 bits round a value between two others to either
    assert difference(torch.from_numpy(np.load(tmp_path / "out.npy")), newest) < (1e-5 if to == "onnx" else 0.03)
