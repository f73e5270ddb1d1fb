"""Whole runs, tiny: what they leave, and that it is right."""

import csv
import json
import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from torch import nn
from torch.optim import SGD
from torchvision.models import resnet18

from conftest import TINY, Watched, watching
from stagetune.config.compose import compose
from stagetune.config.parts import part
from stagetune.config.schema import Config
from stagetune.data.datamodule import Batch, StagedData
from stagetune.errors import ConfigError, DataError, Interrupted, ResultError, TrainingError, WeightsError
from stagetune.inference.checkpoint import load_task
from stagetune.models.backbone import IMAGENET_MEAN, IMAGENET_STD
from stagetune.models.backbones import resnet
from stagetune.models.families import TorchvisionSettings
from stagetune.models.weights import Weights, file_weights, load_into
from stagetune.report.result import read_result
from stagetune.run import experiment, pretrained, run_experiment
from stagetune.run.build import build_task
from stagetune.run.data import build_data, check_unseen
from stagetune.run.leftover import LeftoverBatches
from stagetune.run.pictures import draw_run
from stagetune.run.precision import device_type, resolve_precision
from stagetune.run.recorder import Recorder
from stagetune.run.screen import Screen
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.staged_task import StagedTask

pytestmark = pytest.mark.usefixtures("_no_pictures")

SIAMESE = "+experiment=siamese_staged"
CLASSIFIER = "+experiment=classifier_staged"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Watched]]:
    """The directory of a tiny finished run of an experiment, run once, and what it began with and trained on."""

    @cache
    def run(name: str) -> tuple[Path, Watched]:
        run_dir = tmp_path_factory.mktemp("run") / "out"
        with watching() as watched, pytest.MonkeyPatch.context() as patch:
            patch.setattr(experiment, "draw_run", draw_run)  # whichever test wants the run first
            run_experiment(compose([name, *TINY]), run_dir)
        return run_dir, watched

    return run


@pytest.fixture
def finished(seen: Callable[[str], tuple[Path, Watched]]) -> Callable[[str], Path]:
    """The directory alone."""
    return lambda name: seen(name)[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "golden"), [(CLASSIFIER, 2.385), (SIAMESE, 0.417)], ids=["classifier", "siamese"])
def test_a_seeded_run_begins_with_its_golden_loss(name: str, golden: float, finished: Callable[[str], Path]) -> None:
    """Of the first stage: to the next ones AdamW carries a CPU's rounding, up to 0.05 by the third."""
    rows = list(csv.DictReader((finished(name) / "metrics.csv").open()))
    assert [row["stage"] for row in rows] == ["head", "layer4", "all"]
    assert [int(row["step"]) for row in rows] == [4, 8, 12]
    assert float(rows[0]["train/loss"]) == pytest.approx(golden, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [CLASSIFIER, SIAMESE], ids=["classifier", "siamese"])
def test_a_run_trains_by_the_numbers_of_a_plain_loop(name: str, seen: Callable[[str], tuple[Path, Watched]]) -> None:
    """Torchvision's own network under the same head, on the same batches: each stage's loss, and all weights."""
    run_dir, watched = seen(name)
    assert len(watched.batches) == 12
    task, config, _ = load_task(run_dir / "checkpoints" / "best.ckpt")
    cost = config.loss.build(10, 128)
    plain = nn.ModuleDict({"backbone": resnet18(), "head": task.head}).to(memory_format=torch.channels_last)
    network = plain["backbone"]
    network.fc = nn.Identity()
    plain.load_state_dict({key: value for key, value in watched.initial.items() if key in plain.state_dict()})
    stem = [network.conv1, network.bn1]
    blocks = [plain["head"], network.layer4, network.layer3, network.layer2, network.layer1, nn.ModuleList(stem)]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in block.parameters() if (p.ndim > 1) == decays], "weight_decay": 0.05 * decays}
            for block in blocks
            for decays in (True, False)
        ],
        fused=True,
    )
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    losses = []
    for step, batch in enumerate(watched.batches):
        cosine = (1 + math.cos(math.pi * (step % 4) / 4)) / 2
        opened, rate, decay = ((1, 0.01, 1.0), (2, 0.01, 0.5), (6, 0.01 * cosine, 0.7))[step // 4]
        for depth, block in enumerate(blocks):
            block.train(depth < opened).requires_grad_(depth < opened)
            for group in optimizer.param_groups[2 * depth : 2 * depth + 2]:
                group["lr"] = rate * decay**depth
        optimizer.zero_grad()
        features = network((batch.inputs.float() / 255 - mean) / std)
        loss = cost(plain["head"](features), batch.target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    rows = csv.DictReader((run_dir / "metrics.csv").open())
    expected = [sum(losses[first : first + 4]) / 4 for first in (0, 4, 8)]
    assert [float(row["train/loss"]) for row in rows] == pytest.approx(expected, rel=1e-4)
    last = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(last[key], value, rtol=0, atol=1e-4, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", [CLASSIFIER, SIAMESE], ids=["classifier", "siamese"])
def test_a_run_leaves_its_directory(name: str, finished: Callable[[str], Path]) -> None:
    out = finished(name)
    siamese = ("roc", "det", "distances", "embeddings", "hardest", "stages")
    more = ("confusion", "reliability", "mistakes") if name == CLASSIFIER else siamese
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == {
        "config.yaml",
        "plan.txt",
        "cache.json",
        "metrics.csv",
        "result.json",
        "predictions.csv",
        *(["embeddings.npz"] if name == SIAMESE else []),
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "figures/curves.png",
        "figures/learning_rates.png",
        *(f"figures/{figure}.png" for figure in more),
    }
    result = read_result(out)
    assert (result.status, result.error, result.schema_version) == ("completed", None, 1)
    assert result.weights == {"requested": "random", "used": "random"}
    sizes = {"train": 1079, "val": 359, "test": 359}
    assert len(result.data["contents"]) == 16
    assert result.data == {"name": "digits", "split": "images", **sizes, "notes": [], "contents": ANY}
    assert [stage["name"] for stage in result.stages] == ["head", "layer4", "all"]
    assert [stage["steps"] for stage in result.stages] == [4, 4, 4]
    assert [stage["start_epoch"] for stage in result.stages] == [0, 1, 2]
    for stage in result.stages:
        assert stage["seconds"] > 0
        assert stage["samples_per_second"] > 0
        assert stage["peak_memory_mb"] > 100
        assert set(stage["val"]) >= set(part("task", result.task).metrics)
    assert result.best is not None
    assert result.best["checkpoint"] == "checkpoints/best.ckpt"
    assert result.score == max(stage["val"][result.best["metric"]] for stage in result.stages)
    assert result.environment["device"]["type"] == "cpu"
    assert result.environment["versions"]["torch"] == torch.__version__.split("+")[0]
    assert result.timing["total_seconds"] >= result.timing["fit_seconds"] > 0
    assert result.timing["weights_seconds"] < result.timing["total_seconds"]
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["schedule"]["stages"][1]["open"] == ["layer4"]
    assert all("=" not in path.name for path in out.rglob("*"))


@pytest.mark.parametrize(
    "name", [CLASSIFIER, pytest.param(SIAMESE, marks=pytest.mark.slow)], ids=["classifier", "siamese"]
)
def test_the_best_checkpoint_is_plain_and_gives_the_same_test_numbers(
    name: str, finished: Callable[[str], Path], tiny: Callable[..., Config]
) -> None:
    out, config = finished(name), tiny(name)
    content = torch.load(out / "checkpoints" / "best.ckpt", weights_only=True)
    card = content["stagetune"]
    assert card["classes"] == [str(digit) for digit in range(10)]
    assert card["trained_on"] == {"digits": card["classes"]}
    assert card["config"]["model"]["arch"] == "resnet18"
    task = build_task(config, resnet.Settings(arch="resnet18").build(64), 10, {})
    task.load_state_dict(content["state_dict"])
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    measured, _ = trainer.test(task, datamodule=build_data(config), verbose=False)
    assert measured == pytest.approx(read_result(out).test, abs=1e-6)
    assert set(measured) >= ({"test/top5", "test/f1"} if name == CLASSIFIER else {"test/auc", "test/eer"})


@pytest.mark.slow
def test_embeddings_stand_beside_the_answers_that_follow_from_them(finished: Callable[[str], Path]) -> None:
    out = finished(SIAMESE)
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with np.load(out / "embeddings.npz", allow_pickle=False) as stored:
        table = {name: stored[name] for name in stored.files}
    for column in ("path", "split", "group", "label", "answer"):
        assert table[column].tolist() == [row[column] for row in rows]
    assert table["probability"].tolist() == [float(row["probability"]) for row in rows]
    asked = table["split"] == "test"
    embeddings, label, answer = (table[name][asked] for name in ("embedding", "label", "answer"))
    apart = np.linalg.norm(embeddings[:, None].astype(float) - embeddings[None], axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (label[apart.argmin(axis=1)] == answer).mean() > 0.99  # but for ties in single precision
    assert read_result(out).classification["accuracy"]["value"] == pytest.approx((label == answer).mean())


def test_a_directory_with_a_result_is_never_overwritten(
    finished: Callable[[str], Path], tiny: Callable[..., Config]
) -> None:
    out = finished(CLASSIFIER)
    before = (out / "result.json").read_bytes()
    with pytest.raises(ResultError, match=r"already holds a result\.json; choose another directory"):
        run_experiment(tiny(CLASSIFIER), out)
    assert (out / "result.json").read_bytes() == before


def test_each_image_is_encoded_once_per_batch(tiny: Callable[..., Config]) -> None:
    config = tiny(SIAMESE)
    task = build_task(config, resnet.Settings(arch="resnet18").build(64), 10, {})
    calls: list[int] = []
    task.backbone.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    task.training_step(Batch(torch.arange(6), images, 0, torch.tensor([0, 0, 1, 1, 2, 2])), 0)
    assert calls == [6]


@pytest.mark.parametrize("depth", range(1, 6))
def test_a_task_does_not_know_whether_a_cache_served_its_batch(depth: int, tiny: Callable[..., Config]) -> None:
    task = build_task(tiny(CLASSIFIER), resnet.Settings(arch="resnet18").build(64), 10, {}).eval()
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    target = torch.arange(4)
    with torch.no_grad():
        cached = Batch(target, task.backbone(images, stop=depth), depth, target)
        fresh = Batch(target, images, 0, target)
        assert torch.equal(task.training_step(cached, 0), task.training_step(fresh, 0))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_probe")
@pytest.mark.parametrize("loss", [["loss=triplet"], ["loss=triplet", "loss.mining=semi_hard"], ["loss=bce"]], ids=str)
def test_the_other_siamese_losses_train(
    loss: list[str], tiny: Callable[..., Config], watched: Watched, tmp_path: Path
) -> None:
    config = tiny(SIAMESE, *loss, "data.augment=none", stages=1)
    config.trainer["limit_train_batches"] = 18
    config.schedule.stages[0].epochs = 2
    run_experiment(config, tmp_path)
    first, last = (float(row["train/loss"]) for row in csv.DictReader((tmp_path / "metrics.csv").open()))
    assert last < first
    has_scale = loss == ["loss=bce"]
    assert watched.changed(tmp_path) == {"head", "threshold", *(["loss"] if has_scale else [])}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "lines", "changed"),
    [
        ("last_n", ["head: unfroze head; ", "last_20: unfroze layer3, layer4; "], {"layer3", "layer4", "head"}),
        ("half", ["head: unfroze head; ", "half: unfroze part of layer3, layer4; "], {"layer3", "layer4", "head"}),
        ("surgical", ["head: unfroze head; ", "first: unfroze stem; froze head; "], {"conv1", "bn1", "head"}),
    ],
)
def test_a_run_says_what_each_stage_changes_and_changes_nothing_else(
    schedule: str,
    lines: list[str],
    changed: set[str],
    watched: Watched,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = [*(s for s in TINY if "stages" not in s), "data.image_size=16"]
    config = compose([CLASSIFIER, *small, f"schedule={schedule}"])
    for stage in config.schedule.stages:
        stage.epochs = 1
        stage.open = [{"last": 15} if selector == {"fraction": 0.5} else selector for selector in stage.open]
    run_experiment(config, tmp_path)
    said = [line.split(" ", 2)[2] for line in capsys.readouterr().out.splitlines() if line.startswith("stage ")]
    assert all(line.startswith(start) for line, start in zip(said, lines, strict=True))
    assert watched.changed(tmp_path) == changed


@pytest.mark.slow
def test_every_epoch_end_steps_on_what_is_left_and_as_a_mean(tiny: Callable[..., Config]) -> None:
    """Two windows of 3 batches and one of 1: the same weights as a plain loop that averages each window."""
    config = tiny(CLASSIFIER, "data.augment=none", "data.batch_size=8", "data.image_size=16")
    config = replace(config, accumulation=3)
    data = build_data(config)

    def module() -> StagedTask:
        seed_everything(0, verbose=False)
        backbone = resnet.Settings(arch="resnet18").build(64)
        optimizer = lambda groups: SGD(groups, lr=0.01, momentum=0.9)  # noqa: E731
        head, loss = nn.Linear(512, 10), nn.CrossEntropyLoss()
        return ClassificationTask(backbone, head, loss, classes=10, make_optimizer=optimizer).double()

    theirs = module()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, accumulate_grad_batches=3, limit_train_batches=7, limit_val_batches=0,
        callbacks=[LeftoverBatches()], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, precision="64-true", use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(theirs, datamodule=data)
    assert trainer.global_step == 3

    plain = module()
    optimizer = plain.configure_optimizers()
    plain.train()
    loader = build_data(config).train_dataloader()
    batches = [batch for _, batch in zip(range(7), loader, strict=False)]
    for window in (batches[:3], batches[3:6], batches[6:]):
        optimizer.zero_grad()
        for batch in window:
            logits = plain.head(plain.backbone(batch.inputs.double()))
            (plain.loss(logits, batch.target) / len(window)).backward()
        optimizer.step()
    for (name, ours), (_, expected) in zip(theirs.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.slow
def test_accumulation_and_bf16_run_and_are_recorded(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = replace(tiny(CLASSIFIER, "accumulation=x4", "data.image_size=16"), precision="bf16")
    seen: set[torch.dtype] = set()
    hook = nn.modules.module.register_module_forward_hook(
        lambda module, _, output: (
            seen.add(output.dtype) if isinstance(module, nn.Conv2d) and not output.is_meta else None
        )
    )
    result = run_experiment(config, tmp_path)
    hook.remove()
    assert seen == {torch.bfloat16}
    assert (result.precision, result.accumulation, result.effective_batch_size) == ("bf16", 4, 256)
    assert [stage["steps"] for stage in result.stages] == [1, 1, 1]


def test_precision_auto_becomes_what_the_hardware_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert resolve_precision("auto", "cpu") == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert resolve_precision("auto", "cpu") == "fp32"
    with pytest.raises(ConfigError, match="precision=fp16: a CPU cannot train in fp16; use precision=bf16"):
        resolve_precision("fp16", "cpu")


@pytest.mark.slow
def test_only_tf32_rounds_the_products_of_single_precision_and_the_result_says_so(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    for precision, products in (("tf32", "high"), ("fp32", "highest")):
        config = replace(tiny(CLASSIFIER, "data.image_size=16", stages=1), precision=precision)
        run_experiment(config, tmp_path / precision)
        assert read_result(tmp_path / precision).environment["float32_matmul_precision"] == products


def test_the_rates_of_a_loss_that_is_no_number_are_those_of_its_step_and_not_the_next() -> None:
    """The scheduler has stepped on when the loss is looked at, in the last batch of a cosine to 0."""
    recorder = Recorder(SimpleNamespace(stage=SimpleNamespace(name="head")), None)  # type: ignore[arg-type]
    groups = [{"name": "head", "lr": 0.5}]
    trainer: Any = SimpleNamespace(
        optimizers=[SimpleNamespace(param_groups=groups)], current_epoch=1, num_training_batches=2
    )
    recorder._due = 1.5
    recorder.on_before_optimizer_step(trainer, None, None)  # type: ignore[arg-type]
    groups[0]["lr"] = 0.0
    with pytest.raises(TrainingError, match=r"at learning rates head 5\.0e-01; lower the stage's lr"):
        recorder._check(trainer, [torch.tensor(math.nan)])


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_with_stage_step_and_rates(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(self: StagedTask, batch: Batch, batch_idx: int) -> torch.Tensor:
        factor = math.nan if (self.current_epoch, batch_idx) == (1, 2) else 1.0
        return self.loss(self(batch.inputs), batch.target) * factor

    monkeypatch.setattr(StagedTask, "training_step", poisoned)
    with pytest.raises(TrainingError) as caught:
        run_experiment(tiny(CLASSIFIER), tmp_path)
    assert str(caught.value) == (
        "the loss is nan in stage layer4, epoch 1, batch 3 of 4, at learning rates backbone.layer4 5.0e-03, "
        "head 1.0e-02; lower the stage's lr, add +trainer.gradient_clip_val=1.0, or use precision=fp32; "
        "on_nan=skip_step leaves out single steps"
    )
    result = read_result(tmp_path)
    assert result.status == "failed"
    assert result.error == {"type": "TrainingError", "message": str(caught.value)}
    assert [stage["name"] for stage in result.stages] == ["head"]
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 0  # from before the loss was spoilt


def test_sigterm_interrupts_even_where_it_has_ended_a_loader_process_first(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cluster ends a job: all its processes at once. A sweep must stop and not go on to its next job."""

    def terminated(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    monkeypatch.setattr(ClassificationTask, "training_step", terminated)
    with pytest.raises(Interrupted, match=r"interrupted; go on with python train.py resume="):
        run_experiment(tiny(CLASSIFIER, stages=1), tmp_path)
    assert read_result(tmp_path).status == "interrupted"


@pytest.mark.slow
def test_ctrl_c_leaves_the_last_checkpoint_and_says_interrupted(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = StagedTask.training_step

    def pressed(self: StagedTask, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.global_step == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return honest(self, batch, batch_idx)

    monkeypatch.setattr(StagedTask, "training_step", pressed)
    assert threading.current_thread() is threading.main_thread()
    with pytest.raises(Interrupted, match=r"interrupted; go on with python train.py resume=.*ctrl_c"):
        run_experiment(tiny(CLASSIFIER), tmp_path)
    assert read_result(tmp_path).status == "interrupted"
    assert (
        torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    )  # not the middle of a step
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_targets_and_arguments_are_checked_before_anything_is_built(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = tiny(CLASSIFIER)
    config.optimizer = {"_target_": "torch.optim.AdamW", "weight_decai": 1}
    config.logger.lightning = {"_target_": "lightning.pytorch.loggers.TensorBordLogger"}
    config.schedule.stages[1].lr_scheduler = {"_target_": "torch.optim.lr_scheduler.StepLR", "gama": 1}
    with pytest.raises(ConfigError) as caught:
        run_experiment(config, tmp_path)
    first, second, third, fourth = caught.value.problems
    assert first == "optimizer.weight_decai: is no argument of AdamW; did you mean optimizer.weight_decay?"
    assert second == (
        "logger.lightning._target_=lightning.pytorch.loggers.TensorBordLogger: cannot be imported; "
        "did you mean lightning.pytorch.loggers.TensorBoardLogger?"
    )
    assert third == (
        "schedule.stages[1].lr_scheduler.gama: is no argument of StepLR; "
        "did you mean schedule.stages[1].lr_scheduler.gamma?"
    )
    assert fourth.startswith("schedule.stages[1].lr_scheduler: lacks step_size: StepLR(optimizer, step_size, gamma=")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"accelerator=cuda: torch finds no CUDA GPU here; use trainer=auto"):
            device_type("cuda")


@pytest.mark.slow
def test_auto_weights_are_pretrained_once_and_kept(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAGETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TorchvisionSettings, "pretrained", lambda *_: None)
    runs: list[Config] = []

    def quickly(config: Config, run_dir: Path) -> object:
        runs.append(config)
        short = tiny("+experiment=pretrain_glyphs", "schedule=staged", stages=1)
        short.data.groups, short.data.images_per_identity = ["greek"], 5
        return run_experiment(short, run_dir)

    config = tiny(SIAMESE, "model.weights=auto")
    config.model.weights = "auto"
    first = pretrained.find_weights(config, Screen(), quickly)
    again = pretrained.find_weights(config, Screen(), quickly)
    assert len(runs) == 1
    assert (runs[0].model.arch, runs[0].model.weights, runs[0].data.name) == ("resnet18", "random", "glyphs")
    assert first.used == again.used
    (kept,) = (tmp_path / "cache" / "backbones").iterdir()
    kept.write_bytes(kept.read_bytes()[:500])  # damaged: rebuilt
    assert pretrained.find_weights(config, Screen(), quickly).used == first.used
    assert len(runs) == 2
    assert first.used.startswith("glyphs (glyphs-resnet18-")
    assert all(name.startswith("greek-") for name in first.trained_on["glyphs"])
    load_into(resnet.Settings(arch="resnet18").build(64), first)


def test_imagenet_that_cannot_be_had_is_an_error_that_says_where_to_put_it(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchvisionSettings, "pretrained", lambda *_: None)
    config = tiny(SIAMESE)
    config.model.weights = "imagenet"
    with pytest.raises(
        WeightsError, match=r"neither at .*resnet18-f37072fd\.pth \(from .*\) nor can they be downloaded; put them"
    ):
        pretrained.find_weights(config, Screen(), run_experiment)


def test_weights_that_saw_the_unseen_identities_are_refused(tiny: Callable[..., Config]) -> None:
    data = build_data(tiny(SIAMESE, "data.split=identities"))
    unseen = data.source.classes[int(data.source.labels[data.split.test][0])]
    check_unseen(data, Weights("clean", None, {"glyphs": [unseen]}), "identities")
    with pytest.raises(DataError, match=rf"trained on 1 of the identities that should be unseen, such as {unseen}"):
        check_unseen(data, Weights("leaky", None, {"digits": [unseen]}), "identities")


def test_weights_that_saw_the_test_images_are_refused(
    finished: Callable[[str], Path], tiny: Callable[..., Config]
) -> None:
    own = file_weights(finished(CLASSIFIER) / "checkpoints" / "best.ckpt")
    check_unseen(build_data(tiny(SIAMESE)), own, "images")  # the same split: nothing of its test was seen
    with pytest.raises(DataError, match=r"trained on \d+ of the 718 images of validation and test, such as digit"):
        check_unseen(build_data(tiny(SIAMESE, "data.seed=1")), own, "images")


@pytest.mark.slow
def test_identity_splits_are_said_in_the_result(tiny: Callable[..., Config], tmp_path: Path) -> None:
    config = tiny(SIAMESE, "data.split=identities", "data.image_size=16", stages=1)
    assert run_experiment(config, tmp_path).data["split"] == "identities"


def test_a_torn_result_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"does not exist; is .* the directory of a finished run"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"status": "comp')
    with pytest.raises(ResultError, match="is not readable JSON"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"schema_version": 99}))
    with pytest.raises(ResultError, match="is not a result of schema version 1"):
        read_result(tmp_path)


@pytest.mark.slow
def test_an_own_folder_of_images_runs_with_loader_processes_by_the_same_numbers(
    folder: Path, tiny: Callable[..., Config], watched: Watched, tmp_path: Path
) -> None:
    settings = ("data=image_folder", f"data.root={folder}", "data.batch_size=8", "data.num_workers=2")
    config = tiny(CLASSIFIER, *settings, stages=2)
    config.data.image_size = 32
    result = run_experiment(config, tmp_path / "out")
    assert [result.data[part] for part in ("train", "val", "test")] == [18, 6, 6]
    assert watched.changed(tmp_path / "out") == {"layer4", "head"}
    config.data.num_workers = 0
    alone = run_experiment(config, tmp_path / "alone")
    assert (alone.score, alone.test) == (result.score, result.test)


def test_data_module_shapes_siamese_batches(tiny: Callable[..., Config]) -> None:
    data: StagedData = build_data(tiny(SIAMESE))
    assert data.shape == (10, 6)
