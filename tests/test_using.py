"""A trained model in use: its answers are those of the network, whatever form, batch or order the images come in."""

import csv
import io
import itertools
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from torch import Tensor

import stagetune
from stagetune import cli
from stagetune.artifacts import CheckpointMetadata
from stagetune.config.schema import Config
from stagetune.data.folders import of_classes, walk
from stagetune.errors import DataError, WeightsError
from stagetune.evaluation.calibration import Calibration
from stagetune.evaluation.confidence import Confidence
from stagetune.inference.description import Description
from stagetune.inference.gallery import Gallery
from stagetune.inference.images import named
from stagetune.inference.model import TrainedModel
from stagetune.run.build import build_task

CLASSES = ["red", "green", "blue", "gray"]
CONFIDENCE = Confidence(temperature=0.5, unknown=0.3, images=40)
CALIBRATION = Calibration("accuracy", threshold=0.4, far=0.125, tar=0.9, same=40, different=80, scale=9.0, bias=3.6)


def save(config: Config, path: Path, *, calibration: Any = None) -> Path:
    """A checkpoint of a network that never trained."""
    calibration = calibration or (CONFIDENCE if config.task.name == "classifier" else CALIBRATION)
    torch.manual_seed(0)
    task = build_task(config, config.model.build(config.input().size), len(CLASSES))
    for layer in task.modules():  # as far from where it begins as a trained one
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    content: dict[str, Any] = {"state_dict": task.state_dict()}
    CheckpointMetadata(asdict(config), CLASSES, "random", calibration=asdict(calibration)).put_into(content)
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One of a classifier and one of a siamese run, at 32 px."""
    folder = tmp_path_factory.mktemp("checkpoints")
    small = ["model=resnet18", "model.weights=random", "data.image_size=32"]
    experiments = {"classifier": "+experiment=classifier_staged", "siamese": "+experiment=siamese_staged"}
    return {
        task: save(stagetune.compose([words, *small]), folder / f"{task}.ckpt") for task, words in experiments.items()
    }


@pytest.fixture(scope="module")
def models(checkpoints: dict[str, Path]) -> dict[str, TrainedModel]:
    return {task: stagetune.load(path, device="cpu") for task, path in checkpoints.items()}


@pytest.fixture
def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def squares(model: TrainedModel, files: Sequence[Path]) -> Tensor:
    return torch.stack([model.transform(file) for file in files])


def test_a_class_has_the_probability_that_validation_gave_its_score(
    models: dict[str, TrainedModel], checkpoints: dict[str, Path], files: list[Path]
) -> None:
    model = models["classifier"]
    state = torch.load(checkpoints["classifier"], weights_only=True)["state_dict"]
    network = torch.nn.ModuleDict({"backbone": model.runtime.network.backbone, "head": model.runtime.network.head})
    network.load_state_dict(state)
    with torch.inference_mode():
        scores = network["head"](network["backbone"](squares(model, files))).double().numpy()
    expected = softmax(scores / 0.5, axis=1)
    found = model.predict(files, top_k=3)
    assert [one.image for one in found] == [str(file) for file in files]
    assert [one.label for one in found] == [CLASSES[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose([one.probability for one in found], expected.max(axis=1), rtol=1e-5)
    for one, probability in zip(found, expected, strict=True):
        order = np.argsort(-probability)[:3]
        assert [name for name, _ in one.top] == [CLASSES[i] for i in order]
        assert one.is_unknown == (probability.max() < 0.3)


def test_two_images_are_the_same_up_to_the_threshold(models: dict[str, TrainedModel], files: list[Path]) -> None:
    model = models["siamese"]
    embeddings = model(squares(model, files)).double().numpy()
    apart = np.linalg.norm(embeddings[0] - embeddings[1:], axis=1)
    found = [model.verify(files[0], other) for other in files[1:]]
    np.testing.assert_allclose([one.distance for one in found], apart, rtol=1e-4)
    np.testing.assert_allclose([one.probability for one in found], 1 / (1 + np.exp(9 * apart - 3.6)), rtol=1e-4)
    assert [one.is_same for one in found] == (apart <= 0.4).tolist()
    assert {(one.threshold, one.far) for one in found} == {(0.4, 0.125)} == {(model.threshold, 0.125)}
    distance = found[0].distance
    at_it = replace(model.description, calibration=asdict(replace(CALIBRATION, threshold=distance)))
    assert TrainedModel(model.runtime, at_it).verify(files[0], files[1]).is_same
    below = replace(model.description, calibration=asdict(replace(CALIBRATION, threshold=np.nextafter(distance, 0))))
    assert not TrainedModel(model.runtime, below).verify(files[0], files[1]).is_same


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 3e-3)])
def test_an_answer_does_not_depend_on_the_batch_it_came_in(
    precision: str, bound: float, checkpoints: dict[str, Path], files: list[Path]
) -> None:
    for task, path in checkpoints.items():
        model = stagetune.load(path, device="cpu", precision=precision)
        whole = model.embed(files)
        assert whole.dtype == np.float32
        answers = model.predict(files) if task == "classifier" else [model.verify(files[0], file) for file in files]
        for size in (1, 4, 7):
            model.batch_size = size
            apart = np.linalg.norm(model.embed(files[::-1])[::-1] - whole, axis=1)
            assert (apart <= bound * np.linalg.norm(whole, axis=1)).all()
            if task == "classifier":
                assert [one.label for one in model.predict(files)] == [one.label for one in answers]


def test_images_come_in_any_form(models: dict[str, TrainedModel], folder: Path, files: list[Path]) -> None:
    model = models["siamese"]
    arrays = [np.asarray(Image.open(file)) for file in files]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    expected = model.embed(files)
    forms: list[Any] = [
        folder,
        str(folder),
        [str(file) for file in files],
        (file for file in files),
        [Image.open(file) for file in files],
        arrays,
        np.stack(arrays),
        tensors,
        torch.stack(tensors),
        [folder / "blue", *files[10:20], Image.open(files[20]), *arrays[21:25], *tensors[25:]],
    ]
    for form in forms:
        assert np.array_equal(model.embed(form), expected)
    for one in (files[0], str(files[0]), Image.open(files[0]), arrays[0], tensors[0]):
        assert np.array_equal(model.embed(one), model.embed([one]))
    assert model.embed([]).shape == (0, model.dimensions)
    assert model.embed(arrays[0]).shape == (1, 128)


def test_images_are_taken_as_they_are_needed(models: dict[str, TrainedModel]) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray[Any, Any]]:
        nonlocal taken
        for i in itertools.count():
            taken += 1
            yield np.full((8, 8, 3), i % 256, np.uint8)

    answers = models["classifier"].predictions(endless())
    assert [type(answer).__name__ for answer in itertools.islice(answers, 40)] == ["Prediction"] * 40
    assert taken <= 5 * models["classifier"].batch_size


def test_what_is_no_image_is_said_or_skipped(models: dict[str, TrainedModel], files: list[Path]) -> None:
    files[1].write_bytes(files[1].read_bytes()[:60])
    model = models["classifier"]
    with pytest.raises(DataError, match=re.escape(f"{files[1]}: cannot be read as an image (")):
        model.predict(files[:3])
    assert [one.image for one in model.predict(files[:3], on_error="skip")] == [str(files[0]), str(files[2])]
    assert len(model.embed([files[1]], on_error="skip")) == 0
    with pytest.raises(DataError, match=r"none\.png: cannot be read as an image \(No such file or directory\)"):
        model.predict("none.png")
    with pytest.raises(DataError, match="int: gives no images; give an image, a folder, or several of them"):
        model.predict(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"image 0: float: is no image; give a path"):
        model.predict([0.5])  # type: ignore[list-item]
    empty = files[0].parents[2] / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty: is a folder without images"):
        model.predict(empty)
    with pytest.raises(ValueError, match="on_error=ignore: choose raise or skip"):
        model.predict(files[:1], on_error="ignore")


def test_a_batch_too_large_for_the_memory_is_split(models: dict[str, TrainedModel], files: list[Path]) -> None:
    model = models["siamese"]
    whole, sizes, forward = model.embed(files[:7]), [], type(model.runtime.network).forward

    def small(network: Any, images: Tensor) -> Any:
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(network, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.runtime.network), "forward", small)
        np.testing.assert_allclose(model.embed(files[:7]), whole, rtol=1e-5, atol=1e-7)
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_numbers_that_are_none_are_no_answer(checkpoints: dict[str, Path], files: list[Path], tmp_path: Path) -> None:
    content = torch.load(checkpoints["classifier"], weights_only=True)
    content["state_dict"]["backbone.bn1.weight"][3] = torch.nan
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(WeightsError, match=r"0\.png: the model's scores are no finite numbers; use other weights"):
        stagetune.load(tmp_path / "x.ckpt").predict(files)


def test_a_model_says_what_it_cannot_do(models: dict[str, TrainedModel], files: list[Path]) -> None:
    wrong = (
        "predict: is for a model of task=classifier, and this one is of task=siamese; use verify, identify and embed"
    )
    with pytest.raises(WeightsError, match=re.escape(wrong)):
        models["siamese"].predict(files)
    with pytest.raises(WeightsError, match=r"verify: is for a model of task=siamese, .* use predict and embed"):
        models["classifier"].verify(*files[:2])
    untold = replace(models["siamese"].description, calibration=None)
    with pytest.raises(WeightsError, match=r"has no threshold: it was saved before its first validation; use best\."):
        TrainedModel(models["siamese"].runtime, untold).verify(*files[:2])
    assert models["classifier"].threshold is None
    folder = files[0].parent
    with pytest.raises(DataError, match=re.escape(f"{folder}: is a folder; verify compares two images, and embed")):
        models["siamese"].verify(files[0], folder)
    with pytest.raises(DataError, match="top_k=0: give 1 or more"):
        models["classifier"].predict(files[0], top_k=0)
    with pytest.raises(WeightsError, match="batch_size=0: give 1 or more"):
        TrainedModel(models["siamese"].runtime, untold, batch_size=0)
    with pytest.raises(WeightsError, match="precision=fp64: a model is used in fp32 or bf16"):
        stagetune.load("x.ckpt", precision="fp64")
    with pytest.raises(WeightsError, match=r"runtime=openvino: does not compute x.ckpt; use pytorch"):
        stagetune.load("x.ckpt", runtime="openvino")


def test_a_folder_of_odd_things_is_answered_by_their_own_names(
    models: dict[str, TrainedModel], folder: Path, files: list[Path], tmp_path: Path
) -> None:
    model, elsewhere = models["classifier"], tmp_path / "elsewhere"
    (folder / "blue" / "a.jpg").mkdir()  # a folder that is called as an image is
    files[0].rename(folder / "blue" / "a.jpg" / "inner.png")
    (folder / "blue" / ".hidden").mkdir()
    files[1].rename(folder / "blue" / ".hidden" / "1.png")
    (folder / "green").rename(elsewhere)
    (folder / "green").symlink_to(elsewhere)
    (folder / "red" / "around").symlink_to(folder)
    (folder / "red" / "broken.png").symlink_to("nowhere")
    found = list(named(folder))
    assert [name for name, _ in found] == [
        *(str(folder / "blue" / f"{i}.png") for i in range(2, 10)),
        str(folder / "blue" / "a.jpg" / "inner.png"),
        *(str(folder / "green" / f"{i}.png") for i in range(10)),
        *(str(folder / "red" / f"{i}.png") for i in range(10)),
        str(folder / "red" / "broken.png"),
    ]
    listed = [str(entry.path) for entry in of_classes(walk(folder), folder, depth=1)[0]]
    assert listed == [name for name, _ in found if "inner" not in name]
    alone = [model.predict(name)[0] for name, _ in found[:-1]]
    together = model.predict(folder, on_error="skip")
    assert [(one.image, one.label) for one in together] == [(one.image, one.label) for one in alone]
    with pytest.raises(DataError, match="an empty path was given"):
        model.predict("")


def test_a_folder_that_cannot_be_read_is_an_image_that_cannot(
    models: dict[str, TrainedModel], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.scandir

    def refused(path: Any) -> Any:
        if path == str(folder / "green"):
            raise PermissionError(13, "Permission denied", path)
        return look(path)

    monkeypatch.setattr(os, "scandir", refused)
    found = list(models["classifier"].predictions(folder))
    [error] = [one for one in found if isinstance(one, DataError)]
    assert len(found) == 21
    assert str(error).startswith(f"{folder / 'green'}: cannot be read as an image (")


def test_a_folder_without_a_best_checkpoint_says_why(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with pytest.raises(WeightsError, match="has no best checkpoint; it is still training, or never ended an epoch"):
        stagetune.load(tmp_path)
    (tmp_path / "sweep.json").touch()
    with pytest.raises(WeightsError, match=r"is a sweep; give one of its runs, of which `stagetune best .*` names"):
        stagetune.load(tmp_path)


def test_a_device_that_is_not_there_is_said(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match=r"device=nowhere: cannot be used here \(.*\); leave it out, or use cpu"):
        stagetune.load(checkpoints["siamese"], device="nowhere")


@pytest.mark.slow
def test_equal_keys_mean_equal_embeddings(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    key = stagetune.load(checkpoints["siamese"]).description.key
    assert stagetune.load(checkpoints["siamese"], precision="bf16").description.key == key
    content = torch.load(checkpoints["siamese"], weights_only=True)
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda new: new["state_dict"]["head.layers.0.bias"].add_(1),
        lambda new: new["stagetune"]["config"]["data"].update(resize="pad"),
        lambda new: new["stagetune"]["config"]["data"].update(centred=True),
        lambda new: new["stagetune"]["config"]["model"].update(mean=[0.5, 0.5, 0.5]),
    ]
    for change in changes:
        new = torch.load(checkpoints["siamese"], weights_only=True)
        change(new)
        torch.save(new, tmp_path / "x.ckpt")
        assert stagetune.load(tmp_path / "x.ckpt").description.key != key
    content["stagetune"]["calibration"]["threshold"] = 0.1
    torch.save(content, tmp_path / "x.ckpt")
    assert stagetune.load(tmp_path / "x.ckpt").description.key == key


def test_a_description_goes_through_json(models: dict[str, TrainedModel]) -> None:
    for model in models.values():
        assert Description.from_json(model.description.to_json()) == model.description


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "describes itself by what is no JSON"),
        ("[]", "does not describe itself as a model of this project; export it again"),
        ('{"version": 9}', "has a description of version 9, this stagetune reads up to 1; update it"),
        ('{"version": 1, "task": "x"}', "describes itself wrongly: task=x: no such choice"),
        ('{"version": 1, "task": "siamese"}', "describes itself wrongly: calibration: "),
        ('{"version": 1, "preprocessing": {"image_size": 0}}', "preprocessing.image_size=0: must be at least 16"),
    ],
)
def test_a_description_that_is_none_is_said(text: str, message: str) -> None:
    with pytest.raises(WeightsError, match=re.escape(message)):
        Description.from_json(text)


@pytest.mark.slow
def test_a_checkpoint_runs_no_code_that_it_names(
    tiny: Callable[..., Config], files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = ["model=own", "model.network._target_=elsewhere.Network", "model.blocks=[0,2]", "schedule=full"]
    code = (
        "import pathlib\nfrom torch import nn\n"
        "pathlib.Path(__file__).with_name('ran').touch()\n"
        "class Network(nn.Sequential):\n"
        "    def __init__(self): super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3))\n"
    )
    (tmp_path / "elsewhere.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    config = stagetune.compose([*own, "data.image_size=32"])
    path = save(config, tmp_path / "own.ckpt")
    sys.modules.pop("elsewhere")
    (tmp_path / "ran").unlink()
    with pytest.raises(WeightsError) as caught:
        stagetune.load(path)
    assert str(caught.value) == (
        f"{path}: its network is built by elsewhere.Network, code that the file names and does not hold; if you "
        "trust where it comes from, load it with trust=True (--trust)"
    )
    assert not (tmp_path / "ran").exists()
    assert len(stagetune.load(path, trust=True).predict(files[:2])) == 2

    target = {"_target_": "elsewhere.Network"}
    plain = tiny("+experiment=classifier_staged")
    state = build_task(plain, plain.model.build(32), len(CLASSES)).state_dict()
    for unused in (
        {"optimizer": target},
        {"loss": {"name": "own", "target": target}},
        {"data": {"name": "own", "target": target}},
    ):
        content: dict[str, Any] = {"state_dict": state}
        CheckpointMetadata(asdict(plain) | unused, CLASSES).put_into(content)
        torch.save(content, tmp_path / "x.ckpt")
        sys.modules.pop("elsewhere", None)
        (tmp_path / "ran").unlink(missing_ok=True)
        stagetune.load(tmp_path / "x.ckpt")
        assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_network_of_torchvision_needs_no_trust(files: list[Path], tmp_path: Path) -> None:
    target = "model.network._target_=torchvision.models.resnet18"
    config = stagetune.compose(["model=own", target, "model.blocks=[conv1,bn1,layer1,layer2,layer3,layer4]",
                                "schedule=full", "data.image_size=32"])  # fmt: skip
    assert len(stagetune.load(save(config, tmp_path / "x.ckpt")).predict(files[:2])) == 2


# Commands


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `stagetune WORDS`: the exit code, what it prints, and what it prints to stderr."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        code = 0
        try:
            cli.main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


Run = Callable[..., tuple[int, str, str]]


def test_predict_prints_words_json_or_a_table(
    command: Run, checkpoints: dict[str, Path], models: dict[str, TrainedModel], files: list[Path], folder: Path
) -> None:
    expected = models["classifier"].predict(files)
    code, out, err = command("predict", checkpoints["classifier"], folder)
    assert (code, err) == (0, "")
    for line, one in zip(out.splitlines(), expected, strict=True):
        said = f"unknown (perhaps {one.label} " if one.is_unknown else f"{one.label} {one.probability:.2f}"
        assert line.removeprefix(one.image).lstrip().startswith(said)
    _, out, _ = command("predict", checkpoints["classifier"], folder, "--json", "--top-k", "2", "--batch-size", "30")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["label"] for row in rows] == [one.label for one in expected]
    assert rows[0]["top"] == [list(pair) for pair in models["classifier"].predict(files, 2)[0].top]
    _, out, _ = command("predict", checkpoints["classifier"], *files[:5], "--csv")
    table = list(csv.DictReader(io.StringIO(out)))
    assert [(row["image"], row["label"], row["error"]) for row in table] == [
        (one.image, one.label, "") for one in expected[:5]
    ]


def test_what_cannot_be_read_is_listed_and_ends_nothing(
    command: Run, checkpoints: dict[str, Path], files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    files[1].write_text("no image")
    code, out, err = command("predict", checkpoints["classifier"], *files[:3])
    assert (code, len(out.splitlines())) == (3, 2)
    why = f"{files[1]}: cannot be read as an image (is no image in a format that Pillow reads)"
    assert err == f"1 of 3 images could not be read:\n  {why}\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{files[0]}\n\n{files[1]}\r\n"))
    code, out, _ = command("predict", checkpoints["classifier"], "-", files[2], "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 3
    assert [row["image"] for row in rows] == [str(file) for file in files[:3]]
    assert [row.get("error") for row in rows] == [None, why, None]
    _, out, _ = command("predict", checkpoints["classifier"], files[1], files[0], "--csv")
    assert [row["error"] for row in csv.DictReader(io.StringIO(out))] == [why, ""]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    code, _, err = command("predict", checkpoints["classifier"], "-")
    assert (code, err) == (1, "stagetune: standard input lists no images; give a path on each line\n")


def test_verify_answers_by_its_exit_code_too(
    command: Run, checkpoints: dict[str, Path], models: dict[str, TrainedModel], files: list[Path]
) -> None:
    ckpt = checkpoints["siamese"]
    code, out, _ = command("verify", ckpt, files[0], files[0])
    assert code == 0
    assert out.startswith("same: distance 0.0000, same up to 0.4000; probability of same 0.973, where half of all")
    content = torch.load(ckpt, weights_only=True)
    content["stagetune"]["calibration"]["threshold"] = 1e-9
    strict = ckpt.with_name("strict.ckpt")
    torch.save(content, strict)
    code, out, _ = command("verify", strict, files[0], files[1], "--json")
    assert (code, json.loads(out)["is_same"]) == (4, False)
    assert json.loads(out)["distance"] == pytest.approx(models["siamese"].verify(files[0], files[1]).distance)
    code, out, err = command("verify", ckpt, files[0], "none.png")
    assert (code, out, err) == (
        1,
        "",
        "stagetune: none.png: cannot be read as an image (No such file or directory)\n",
    )


def test_names_of_any_characters_are_given_and_taken(
    command: Run, checkpoints: dict[str, Path], files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = ['line\nbreak, "quoted".png', os.fsdecode(b"no\xffutf8.png"), " space.png "]
    paths = [str(files[0].with_name(name)) for name in names]
    for path in paths:
        shutil.copy(files[0], path)
    ckpt = checkpoints["classifier"]
    raw = io.BytesIO("\0".join(paths).encode(errors="surrogateescape"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(raw, "utf-8"))
    written = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8", newline=""))
        assert command("predict", ckpt, "-", "--csv")[0] == 0
        table = written.getvalue().decode(errors="surrogateescape")
    assert [row["image"] for row in csv.DictReader(io.StringIO(table, newline=""))] == paths
    _, out, _ = command("predict", ckpt, *paths, "--json")
    assert [json.loads(line)["image"] for line in out.splitlines()] == paths
    _, out, _ = command("predict", ckpt, paths[0], files[2])
    assert [line.partition("  ")[0].rpartition("/")[2] for line in out.splitlines()] == [
        "line\\nbreak, \"quoted\".png", "2.png"
    ]  # fmt: skip
    (tmp_path / "who" / "a\nb").mkdir(parents=True)
    shutil.copy(files[0], tmp_path / "who" / "a\nb")
    code, _, err = command("gallery", "build", "none.ckpt", tmp_path / "who", "-o", tmp_path / "gallery")
    assert (code, err) == (
        1, "stagetune: the identity 'a\\nb' has a character that cannot be shown; rename it\n"
    )  # fmt: skip
    pytest.importorskip("pyarrow")
    code, _, err = command("embed", ckpt, *paths, "-o", tmp_path / "x.parquet")
    assert code == 1
    assert "no\\udcffutf8.png': is no name in UTF-8, as a .parquet file holds them; write a .npz" in err


def test_what_cannot_be_opened_or_printed_is_one_sentence(
    command: Run, checkpoints: dict[str, Path], files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long, ckpt = "a" * 300, checkpoints["classifier"]
    code, _, err = command("predict", long, files[0])
    assert (code, err) == (1, f"stagetune: {long}: File name too long\n")
    code, out, err = command("predict", ckpt, long, files[0])
    assert (code, out.split()[0], "File name too long" in err) == (3, str(files[0]), True)
    for words in (["predict", ckpt, files[0]], ["info", ckpt]):
        with monkeypatch.context() as patch, open("/dev/full", "w") as full:
            patch.setattr(sys, "stdout", full)
            assert command(*words)[::2] == (1, "stagetune: what is printed or read: No space left on device\n")
    files[0].write_text("no image")
    code, _, err = command("embed", ckpt, files[0], "-o", tmp_path / "x.npz")
    assert (code, err.splitlines()[0]) == (1, "1 of 1 images could not be read:")
    assert err.endswith("stagetune: no image could be read; nothing is written\n")


def test_streams_that_were_closed_lead_nowhere(
    command: Run, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    Gallery.create(tmp_path / "gallery", model="7f2c", distance="euclidean", dimensions=2).save()
    assert command("gallery", "list", tmp_path / "gallery", "--csv") == (0, "", "")
    assert command("predict", checkpoints["classifier"], "-") == (1, "", "")


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_embed_writes_what_embed_gives(
    ending: str, command: Run, checkpoints: dict[str, Path], models: dict[str, TrainedModel], files: list[Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    files[2].write_text("no image")
    out = tmp_path / f"out{ending}"
    code, said, _ = command("embed", checkpoints["siamese"], *files[:5], "-o", out)
    assert (code, said) == (3, f"4 embeddings of 128 numbers in {out}\n")
    good = [str(file) for file in files[:5] if file != files[2]]
    expected = models["siamese"].embed(good)
    if ending == ".npz":
        with np.load(out, allow_pickle=False) as found:
            images, embeddings = found["image"].tolist(), found["embedding"]
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(out)
        images, embeddings = table["image"].to_pylist(), np.stack(table["embedding"].to_numpy())
    assert images == good
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-7)


def test_embed_says_what_it_cannot_write_before_it_computes(command: Run, files: list[Path], tmp_path: Path) -> None:
    for name, why in (
        ("out.txt", "of this kind none is written; let its name end in .npz or .parquet"),
        ("none/out.npz", "lies in a folder that is not there"),
        ("/proc/out.npz", "cannot be written (No such file or directory); give another place"),
    ):
        code, _, err = command("embed", "none.ckpt", files[0], "-o", tmp_path / name)
        assert (code, err) == (1, f"stagetune: {tmp_path / name}: {why}\n")


def test_info_says_what_a_model_is(command: Run, checkpoints: dict[str, Path]) -> None:
    _, out, _ = command("info", checkpoints["siamese"])
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["model"] == "resnet18 under task=siamese, 11,504,832 parameters"
    assert lines["answers"] == "same up to a euclidean distance of 0.4000"
    assert lines["classes"] == "4: red, green, blue, gray"
    _, out, _ = command("info", checkpoints["classifier"], "--json")
    found = json.loads(out)
    assert found["preprocessing"] == {
        "image_size": 32, "interpolation": "bilinear", "resize": "crop", "wrappers": {},
        "range": None, "max_megapixels": 200.0,
    }  # fmt: skip
    assert found["calibration"] == asdict(CONFIDENCE)
    assert found["runtime"]["name"] == "pytorch"


@pytest.mark.slow
def test_a_gallery_is_built_asked_added_to_and_taken_from(
    command: Run, checkpoints: dict[str, Path], models: dict[str, TrainedModel], folder: Path, tmp_path: Path
) -> None:
    ckpt, gallery, model = checkpoints["siamese"], tmp_path / "gallery", models["siamese"]
    (folder / "green").rename(tmp_path / "green")
    (folder / "red" / "torn.png").write_text("no image")
    (folder / "loose.png").write_bytes((folder / "red" / "1.png").read_bytes())
    code, out, err = command("gallery", "build", ckpt, folder, "-o", gallery)
    assert err.startswith("images beside the class folders are not used (1): loose.png\n")
    assert (code, out) == (3, f"20 images of 2 identities in {gallery}\n")
    assert "torn.png: cannot be read as an image" in err
    (tmp_path / "more" / "green").mkdir(parents=True)
    for file in sorted((tmp_path / "green").iterdir())[:4]:
        file.rename(tmp_path / "more" / "green" / file.name)
    assert (
        command("gallery", "add", gallery, ckpt, tmp_path / "more")[1] == f"24 images of 3 identities in {gallery}\n"
    )
    again = f"24 images of 3 identities in {gallery}, 4 of them in place of what they were\n"
    assert command("gallery", "add", gallery, ckpt, tmp_path / "more")[1] == again
    assert command("gallery", "list", gallery, "--csv")[1] == "identity,images\nblue,10\nred,10\ngreen,4\n"

    files = sorted(folder.rglob("[0-9].png")) + sorted((tmp_path / "more").rglob("*.png"))
    names = [file.parent.name for file in files]
    queries = sorted((tmp_path / "green").iterdir())
    vectors, asked = model.embed(files).astype(np.float64), model.embed(queries).astype(np.float64)
    for query, vector, found in zip(queries, asked, model.identify(queries, gallery, k=3), strict=True):
        apart = np.linalg.norm(vectors - vector, axis=1)
        nearest = {name: min(a for a, of in zip(apart, names, strict=True) if of == name) for name in set(names)}
        order = sorted(nearest, key=lambda name: nearest[name])
        assert [one.identity for one in found.top] == order
        np.testing.assert_allclose([one.distance for one in found.top], [nearest[name] for name in order], rtol=1e-3)
        assert found.identity == (order[0] if nearest[order[0]] <= model.threshold else None)
        assert found.image == str(query)
    code, out, _ = command("identify", ckpt, gallery, queries[0], "--json", "-k", "1")
    [expected] = model.identify(queries[0], stagetune.Gallery.open(gallery), k=1)
    assert (code, json.loads(out)["top"][0]["image"]) == (0, expected.top[0].image)

    assert command("gallery", "remove", gallery, "red")[1] == f"14 images of 2 identities in {gallery}\n"
    assert {one.identity for one in model.identify(queries[0], gallery)[0].top} == {"blue", "green"}
    far = replace(model.description, calibration=asdict(replace(CALIBRATION, threshold=1e-9)))
    stranger = TrainedModel(model.runtime, far).identify(queries[0], gallery)[0]
    assert (stranger.identity, stranger.is_unknown, len(stranger.top)) == (None, True, 2)

    other = torch.load(ckpt, weights_only=True)
    other["state_dict"]["backbone.conv1.weight"].mul_(2)
    torch.save(other, tmp_path / "other.ckpt")
    code, _, err = command("identify", tmp_path / "other.ckpt", gallery, queries[0])
    assert code == 1
    assert re.search(
        r"gallery: was built by another model .* build a gallery with this model, or give the other", err
    )
    code, _, err = command("gallery", "build", ckpt, folder, "-o", gallery)
    assert (code, "already holds gallery" in err) == (1, True)
    code, _, err = command("gallery", "build", checkpoints["classifier"], folder, "-o", tmp_path / "new")
    assert (code, "is a classifier; a gallery needs a siamese run" in err) == (1, True)
    assert not (tmp_path / "new").exists()
