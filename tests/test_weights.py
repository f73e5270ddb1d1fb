"""Weights of every usual wrapping are found by what fits; what does not fit is refused with its reason."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from stagetune.artifacts import CheckpointMetadata, RunDir
from stagetune.errors import WeightsError
from stagetune.models import imagenet
from stagetune.models.backbones import resnet
from stagetune.models.backbones import timm as timm_family
from stagetune.models.fitting import fitting
from stagetune.models.heads import hidden_head, linear_head
from stagetune.models.imagenet import timm_weights, timm_weights_at, torchvision_file, torchvision_weights
from stagetune.models.weights import Weights, file_weights, load_head, load_into

State = dict[str, Tensor]


class Network(nn.Module):
    """Somebody's: two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.layer1 = nn.Linear(4, 4)


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


OWN: State = Network().state_dict()
OTHER: State = Network().state_dict()
FC: State = {"fc.weight": torch.ones(10, 4), "fc.bias": torch.ones(10)}
HEAD: State = below("head.", FC)
OPTIMIZER = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}


@pytest.mark.parametrize(
    ("content", "where", "left_out"),
    [
        (OWN, "", ()),
        (OWN | FC, "", ("fc",)),
        (OWN | {"classifier.1.weight": torch.ones(10, 4)}, "", ("classifier",)),
        ({name: value for name, value in OWN.items() if "num_batches" not in name}, "", ()),
        ({"model": OWN | FC, "optimizer": OPTIMIZER, "epoch": 3}, "model", ("fc",)),
        ({"model_state_dict": OWN, "optimizer_state_dict": OPTIMIZER}, "model_state_dict", ()),
        ({"state_dict": OWN}, "state_dict", ()),
        ({"net": OWN, "acc": 0.9}, "net", ()),
        ({"checkpoint": {"model": OWN}}, "checkpoint.model", ()),
        (below("module.", OWN | FC), "module.*", ("fc",)),
        (below("_orig_mod.", OWN), "", ()),
        ({"model": below("_orig_mod.module.", OWN)}, "model module.*", ()),
        ({name.replace("stem.", "stem._orig_mod."): value for name, value in OWN.items()}, "", ()),
        (below("model.", OWN) | {"loss.weight": torch.ones(10)}, "model.*", ("loss",)),
        (below("backbone.", OWN) | HEAD, "backbone.*", ("head",)),
        (below("encoder.", OWN), "encoder.*", ()),
        (
            {"state_dict": below("model.backbone.", OWN) | HEAD, "pytorch-lightning_version": "2.6", "callbacks": {}},
            "state_dict model.backbone.*",
            ("head",),
        ),
        ({"state_dict": OTHER, "state_dict_ema": OWN}, "state_dict_ema", ()),
        ({"model": OTHER, "model_ema": below("module.", OWN)}, "model_ema module.*", ()),
        (below("model.", OTHER) | below("ema_model.", OWN), "ema_model.*", ("model",)),
        ({"model": OWN, "best": OWN}, "model", ()),  # twice the same is no question
    ],
)
def test_the_weights_of_a_network_are_found_in_any_wrapping(
    content: dict[str, Any], where: str, left_out: tuple[str, ...]
) -> None:
    fit = fitting(content, OWN)
    assert (fit.where, fit.left_out, fit.problems) == (where, left_out, ())
    assert fit.state.keys() == OWN.keys()
    for name, value in OWN.items():
        torch.testing.assert_close(fit.state[name], value, atol=0, rtol=0, msg=name)


@pytest.mark.parametrize(
    ("own", "content"),
    [
        (OWN | FC, OWN | FC),  # a layer fc of the network itself
        (OWN | FC, {"model": below("module.", OWN | FC)}),
        (below("backbone.", OWN), below("backbone.", OWN)),  # its layers are under self.backbone
        (below("backbone.", OWN), {"state_dict": below("backbone.backbone.", OWN) | HEAD}),
        (below("model.", OWN) | HEAD, below("model.", OWN) | HEAD),
    ],
)
def test_a_networks_own_names_are_never_taken_for_a_wrapping(own: State, content: dict[str, Any]) -> None:
    fit = fitting(content, own)
    assert not fit.problems
    assert fit.state.keys() == own.keys()
    assert all(torch.equal(fit.state[name], value) for name, value in own.items())


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        ({"epoch": 3}, ("it holds no state dict",)),
        (
            below("encoder_q.", OWN) | below("encoder_k.", OTHER),
            ("it holds several networks that fit (encoder_q.*, encoder_k.*); save the one that is meant",),
        ),
        (
            {"student": OWN, "teacher": OTHER},
            ("it holds several networks that fit (student, teacher); save the one that is meant",),
        ),
        (OWN | {"layer2.weight": torch.ones(1), "layer2.bias": torch.ones(1)}, ("2 unknown such as layer2.bias",)),
        (OWN | {"stem.0.fc.weight": torch.ones(1)}, ("1 unknown such as stem.0.fc.weight",)),  # no classifier: within
        ({"model": {**OWN, "layer1.weight": torch.ones(2, 4)}}, ("layer1.weight is [2, 4] instead of [4, 4]",)),
        (below("net.", {"layer1.weight": OWN["layer1.weight"]}), ("7 missing such as layer1.bias",)),
    ],
)
def test_what_does_not_fit_is_said(content: dict[str, Any], problems: tuple[str, ...]) -> None:
    assert fitting(content, OWN).problems == problems


def test_a_deeper_network_of_the_same_names_is_refused(tmp_path: Path) -> None:
    torch.save(models.resnet34(weights=None).state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        WeightsError, match=r"w\.pt do not fit this backbone: \d+ unknown such as layer1\.2\.bn1\.bias"
    ):
        load_into(resnet.Settings(arch="resnet18").build(64), file_weights(tmp_path / "w.pt"))


@pytest.mark.parametrize("kind", ["pt", "safetensors", "lightning"])
def test_a_file_is_loaded_whole_and_what_was_left_out_is_said(kind: str, tmp_path: Path) -> None:
    theirs = {name: value.clone() for name, value in models.resnet18(weights=None).state_dict().items()}
    file, where = tmp_path / f"w.{kind}", ""
    if kind == "safetensors":
        save_file(theirs, file)
    elif kind == "pt":
        torch.save(theirs, file)
    else:
        torch.save({"state_dict": below("model.", theirs), "hyper_parameters": {"lr": 0.1}}, file)
        where = " (state_dict model.*)"
    backbone = resnet.Settings(arch="resnet18").build(64)
    assert load_into(backbone, file_weights(file)).used == f"{file}{where} without fc"
    assert all(torch.equal(value, theirs[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("content", ["a module", "a state dict beside an object"])
def test_a_file_that_could_run_commands_is_refused_unread(content: str, tmp_path: Path) -> None:
    network = Network()
    torch.save(
        network if content == "a module" else {"model": network.state_dict(), "from": tmp_path}, tmp_path / "w.pt"
    )
    with pytest.raises(WeightsError) as caught:
        file_weights(tmp_path / "w.pt")
    said = "test_weights.Network" if content == "a module" else "pathlib.PosixPath"
    assert said in str(caught.value)
    assert str(caught.value).endswith(
        "which could run commands as it is read; "
        "where it was made, save the weights alone: torch.save(model.state_dict(), 'weights.pt')"
    )


def run_of(folder: Path, state: State, classes: list[str]) -> RunDir:
    """The directory of a run as it is left behind: its best checkpoint."""
    run_dir = RunDir(folder)
    checkpoint = {"state_dict": state}
    metadata = CheckpointMetadata(
        config={"name": "mine"}, classes=classes, trained_on={"folder": classes}, images=["a1"]
    )
    metadata.put_into(checkpoint)
    run_dir.checkpoints.mkdir(parents=True)
    torch.save(checkpoint, run_dir.best)
    return run_dir


def test_the_directory_of_a_run_is_its_best_checkpoint_with_its_head(tmp_path: Path) -> None:
    head = linear_head(4, 2)
    run_dir = run_of(tmp_path / "run", below("backbone.", OWN) | below("head.", head.state_dict()), ["cat", "dog"])
    weights = file_weights(str(run_dir))
    assert (weights.used, weights.trained_on, weights.images) == (
        str(run_dir), {"folder": ["cat", "dog"]}, frozenset({"a1"})
    )  # fmt: skip
    assert (weights.classes, weights.config) == (["cat", "dog"], {"name": "mine"})
    network, again = Network(), linear_head(4, 2)
    assert load_into(network, weights).used == str(run_dir)
    load_head(again, weights, ["cat", "dog"])
    assert all(torch.equal(value, OWN[name]) for name, value in network.state_dict().items())
    assert torch.equal(again.state_dict()["weight"], head.state_dict()["weight"])


def test_paths_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"no\.pt: does not exist \(looked in .*\); give a file of weights, or the"
    ):
        file_weights(tmp_path / "no.pt")
    with pytest.raises(
        WeightsError, match=r"best\.ckpt does not exist; give a file of weights, or the directory of a"
    ):
        file_weights(tmp_path)
    (tmp_path / "w.pt").touch()
    with pytest.raises(WeightsError, match=r"w\.pt: cannot be read \(it ends too early\); give a state dict"):
        file_weights(tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("stored", "head", "classes", "message"),
    [
        ({}, linear_head(4, 2), None, r"run holds no head; give the directory of a run"),
        (
            linear_head(4, 2).state_dict(), linear_head(4, 2), ["dog", "cat"],
            r"on 2 classes and the data have 2, in another order: class 0 is cat there and dog here; give the",
        ),
        (
            linear_head(4, 2).state_dict(), linear_head(4, 3), ["cat", "dog", "eel"],
            r"on 2 classes and the data have 3, others: class 2 is none there and eel here; give the data",
        ),
        (
            linear_head(4, 2).state_dict(), hidden_head(4, 2, hidden=8), ["cat", "dog"],
            r"has another head: 4 missing such as 0\.bias; 2 unknown such as bias; choose the task",
        ),
        (
            linear_head(4, 8).state_dict(), linear_head(4, 16), None,  # embeddings
            r"another head: weight is \[8, 4\] instead of \[16, 4\]; bias is \[8\] instead of \[16\]; choose",
        ),
    ],
)  # fmt: skip
def test_a_head_is_kept_only_where_it_means_the_same(
    stored: State, head: nn.Module, classes: list[str] | None, message: str
) -> None:
    before = {name: value.clone() for name, value in head.state_dict().items()}
    with pytest.raises(WeightsError, match=r"^model\.head=keep: outputs/run .*" + message.removeprefix("run ")):
        load_head(head, Weights("outputs/run", OWN, head=stored, classes=["cat", "dog"]), classes)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def vit(image_size: int) -> models.VisionTransformer:
    return models.VisionTransformer(
        image_size, patch_size=8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=3
    )


def test_a_vits_position_embeddings_follow_the_image_size() -> None:
    theirs, ours = vit(32), vit(48)
    ours.heads = nn.Identity()
    used = load_into(ours, Weights("vit.pt", theirs.state_dict())).used
    assert used == "vit.pt without heads, position embeddings resized from 4x4 to 6x6"
    expected = interpolate_embeddings(48, 8, theirs.state_dict())["encoder.pos_embedding"]
    assert torch.equal(ours.encoder.pos_embedding, expected)
    assert torch.equal(ours.conv_proj.weight, theirs.conv_proj.weight)
    same = vit(32)
    assert load_into(same, Weights("vit.pt", theirs.state_dict())).used == "vit.pt"
    assert torch.equal(same.encoder.pos_embedding, theirs.encoder.pos_embedding)
    odd = theirs.state_dict() | {"encoder.pos_embedding": torch.zeros(1, 12, 8)}  # no square of patches
    with pytest.raises(WeightsError, match=r"encoder\.pos_embedding is \[1, 12, 8\] instead of \[1, 37, 8\]"):
        load_into(vit(48), Weights("vit.pt", odd))


@pytest.mark.slow
def test_imagenet_weights_come_from_torch_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    path = torchvision_file("resnet50")
    assert path == tmp_path / "checkpoints" / "resnet50-11ad3fa6.pth"
    path.parent.mkdir()
    state = models.resnet50(weights=None).state_dict()
    torch.save(state, path)
    found = torchvision_weights("resnet50")
    assert found is not None
    assert found.used == "imagenet (ResNet50_Weights.IMAGENET1K_V2)"
    backbone = resnet.Settings(arch="resnet50").build(64)
    load_into(backbone, found)
    assert torch.equal(backbone.state_dict()["layer4.2.conv3.weight"], state["layer4.2.conv3.weight"])

    small = resnet.Settings(arch="resnet50", stem="small_images").build(64)
    assert load_into(small, found).used.endswith(", but conv1.weight random for this stem")

    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"cannot be read .* delete it and try again"):
        torchvision_weights("resnet50")


def test_without_cache_and_network_there_are_no_imagenet_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(imagenet, "urlopen", refuse)
    assert torchvision_weights("resnet18") is None


@pytest.mark.parametrize("kind", ["pt", "safetensors", "checkpoint"])
def test_weights_come_from_a_file_of_any_usual_kind(kind: str, tmp_path: Path) -> None:
    source = resnet.Settings(arch="resnet18").build(64)
    state = {name: value.contiguous() for name, value in source.state_dict().items()}
    if kind == "safetensors":
        path = tmp_path / "w.safetensors"
        save_file(state, path)
    else:
        path = tmp_path / "w.pt"
        own = {f"backbone.{name}": value for name, value in state.items()} | {"head.weight": torch.zeros(3)}
        card = {"trained_on": {"glyphs": ["a"]}}
        torch.save(state if kind == "pt" else {"state_dict": own, "stagetune": card}, path)
    weights = file_weights(path)
    target = resnet.Settings(arch="resnet18").build(64)
    load_into(target, weights)
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in state.items())
    assert weights.trained_on == ({"glyphs": ["a"]} if kind == "checkpoint" else {})


def test_weights_of_another_shape_or_kind_are_refused(tmp_path: Path) -> None:
    torch.save(resnet.Settings(arch="resnet18").build(64).state_dict(), tmp_path / "w.pt")
    with pytest.raises(
        WeightsError, match=r"do not fit this backbone: .* choose the model and its settings that they"
    ):
        load_into(resnet.Settings(arch="resnet50").build(64), file_weights(tmp_path / "w.pt"))
    (tmp_path / "w.pt").write_text("hello")
    with pytest.raises(WeightsError, match=r"w\.pt: cannot be read .* give a state dict"):
        file_weights(tmp_path / "w.pt")
    torch.save([1, 2], tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"holds no state dict; expected names such as layer1\.0\.conv1\.weight"):
        file_weights(tmp_path / "w.pt")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(imagenet, "urlopen", refuse)
    return tmp_path


def cached(hub: Path, repository: str, write: Callable[[Path], None], name: str = "model.safetensors") -> Path:
    """Leave a file where huggingface_hub leaves it."""
    folder, commit = hub / f"models--{repository.replace('/', '--')}", "0" * 40
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    write(folder / "blobs" / "abc")
    (folder / "snapshots" / commit / name).symlink_to(folder / "blobs" / "abc")
    return folder / "snapshots" / commit / name


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_timms_weights_come_from_the_hugging_face_cache(name: str, hub: Path) -> None:
    theirs = timm.create_model("test_vit", num_classes=1000)
    state = {key: value.contiguous() for key, value in theirs.state_dict().items()}
    write = save_file if name.endswith("safetensors") else torch.save
    file = cached(hub, "timm/test_vit.r160_in1k", lambda path: write(state, path), name)
    weights = timm_weights("test_vit", {"num_classes": 0})
    assert weights is not None
    ours = timm.create_model("test_vit", num_classes=0)
    assert load_into(ours, weights).used == "timm/test_vit.r160_in1k"
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    settings = timm_family.Settings(arch="test_vit")
    larger = settings.pretrained(192)
    assert larger is not None
    load_into(settings.build(192), larger)  # its position embeddings fit

    with pytest.raises(TypeError, match="no_such_argument"):  # nothing is wrong with the file
        timm_weights("test_vit", {"no_such_argument": 1})
    file.resolve().write_bytes(b"torn")
    with pytest.raises(WeightsError, match=r"cannot be read .* delete it and try again"):
        timm_weights("test_vit", {"num_classes": 0})


def test_without_cache_and_network_there_are_no_weights_of_timm(hub: Path) -> None:
    assert timm_weights("test_vit", {}) is None
    assert timm_weights_at("test_vit") == (
        f"at {hub}/models--timm--test_vit.r160_in1k (as `hf download timm/test_vit.r160_in1k` leaves them on a "
        "machine with network)"
    )
    assert timm_weights("gcvit_base", {}) is None
    assert timm_weights_at("gcvit_base") == "on the Hugging Face hub, where timm has none of gcvit_base"


def test_weights_that_timm_knows_as_a_file_of_jax_are_those_of_the_hub(hub: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=1000)
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    cached(hub, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", lambda path: save_file(state, path))
    weights = timm_weights("vit_tiny_patch16_224", {"num_classes": 0})
    assert weights is not None
    assert weights.state is not None
    assert torch.equal(weights.state["blocks.3.mlp.fc1.weight"], state["blocks.3.mlp.fc1.weight"])
