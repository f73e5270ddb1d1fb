"""Runs that prune: what they leave and say, that all that takes a checkpoint takes theirs, and the report on them."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

import stagetune
from conftest import TINY
from stagetune.artifacts import CheckpointMetadata, RunDir, stored_config
from stagetune.cache.key import weights_key
from stagetune.cli import main
from stagetune.config.compose import compose
from stagetune.config.pruned import last_stage, place_of, pruned_config
from stagetune.config.schema import Config
from stagetune.config.validate import read_config
from stagetune.errors import ConfigError, ExportError, Interrupted, WeightsError
from stagetune.inference.checkpoint import load_task
from stagetune.inference.export.export import export
from stagetune.inference.prune import prune_run
from stagetune.models.backbones.swin import Settings as Swin
from stagetune.models.weights import file_weights, random_weights
from stagetune.report.collect import collect
from stagetune.report.result import RunResult
from stagetune.report.speed import Point, pareto, speed_points
from stagetune.report.speed_figure import draw_speed
from stagetune.report.summary import summarize
from stagetune.run import compress, latency, run_experiment
from stagetune.run.data import build_data
from stagetune.run.experiment import first_task
from stagetune.schedule.load import load_schedule
from stagetune.schedule.spec import Schedule, Stage
from stagetune.sweep.job import run_job
from stagetune.sweep.jobs import Job, make_ready, state_of
from stagetune.tasks.staged_task import StagedTask
from test_report import leave


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is asserted."""
    monkeypatch.setattr(latency, "ROUNDS", 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one stage, in which all is trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stagetune.run.experiment.draw_run", lambda *_: None)
        where = tmp_path_factory.mktemp("trained") / "run"
        words = ["+experiment=classifier_staged", *TINY[:6], "schedule=full", "data.batch_size=32"]
        run_experiment(compose([*words, "schedule.stages.0.epochs=1"]), where)
    return where


@pytest.fixture(scope="module")
def pruned(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunResult]:
    """The same with 30% of its channels left out, and fine-tuned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "ROUNDS", 1)
        patch.setattr("stagetune.run.experiment.draw_run", lambda *_: None)
        where = tmp_path_factory.mktemp("pruned") / "run"
        return where, prune_run(trained, 0.3, run_dir=where)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.slow
def test_a_run_that_prunes_says_what_was_gained_and_lost(trained: Path, pruned: tuple[Path, RunResult]) -> None:
    where, result = pruned
    found, before = result.pruning, load_task(trained)[0]
    task, config, metadata = load_task(where)
    assert (config.name, config.model.head, config.model.prune.ratio) == ("classifier_staged-pruned", "keep", 0.3)
    assert [stage["name"] for stage in result.stages] == ["all"]
    assert found["ratio"] == 0.3
    assert found["parameters"] == {"before": parameters(before), "after": parameters(task)}
    assert 0.4 < found["macs"]["after"] / found["macs"]["before"] < 0.7
    assert all(time > 0 for when in ("before", "after") for time in found["latency_ms"][when].values())
    best = json.loads((trained / "result.json").read_text())["best"]["value"]
    assert found["metric"] == "val/accuracy"
    assert list(found["quality"]) == ["before", "pruned", "re-estimated", "fine-tuned"]
    assert found["quality"]["before"] == pytest.approx(best)
    assert result.best is not None
    assert found["quality"]["fine-tuned"] == result.best["value"]
    assert found["batches"] == 32
    assert [entry["ratio"] for entry in metadata.pruning] == [0.3]

    text = (where / "plan.txt").read_text()
    assert "pruned by model.prune.ratio=0.3" in text
    rows = {line.split()[0]: line for line in text.partition("pruned block")[2].splitlines()[1:] if line}
    assert list(rows) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    assert rows["layer4"].endswith("its outputs are the features")
    assert f"{parameters(task.backbone.layer4):,}" in rows["layer4"]
    assert f"{1 - parameters(task.backbone.layer4) / parameters(before.backbone.layer4):.0%}" in rows["layer4"]


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_weights_of_a_pruned_run_are_trained_and_pruned_further(
    pruned: tuple[Path, RunResult], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    words = ("+experiment=classifier_staged", f"model.weights={pruned[0]}")
    plain = run_experiment(tiny(*words, stages=1), tmp_path / "plain")
    size = parameters(load_task(pruned[0])[0])
    assert plain.pruning == {}
    assert plain.stages[0]["total_params"] == size
    assert parameters(load_task(tmp_path / "plain")[0]) == size
    again = run_experiment(tiny(*words, "model.prune.ratio=0.5", stages=1), tmp_path / "again")
    assert "quality" not in again.pruning  # of a head that is new
    task, _, metadata = load_task(tmp_path / "again")
    assert [entry["ratio"] for entry in metadata.pruning] == [0.3, 0.5]
    assert again.pruning["parameters"] == {"before": size, "after": parameters(task)}
    assert parameters(task) < 0.7 * size


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_a_run_that_prunes_goes_on_with_the_pruned_network(
    trained: Path, tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (f"model.weights={trained}", "model.head=keep", "model.prune.ratio=0.3")
    config = tiny("+experiment=classifier_staged", *words, stages=2)

    def stop(task: StagedTask) -> None:
        if task.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StagedTask, "on_train_epoch_start", stop, raising=False)
        with pytest.raises(Interrupted):
            run_experiment(config, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = torch.load(last, weights_only=True)
    result = run_experiment(config, tmp_path, resume=True)
    after = torch.load(last, weights_only=True)
    frozen = [name for name in before["state_dict"] if name.startswith("backbone.layer3.")]
    assert all(torch.equal(before["state_dict"][name], after["state_dict"][name]) for name in frozen)
    assert before["stagetune"]["pruning"] == after["stagetune"]["pruning"]
    quality = result.pruning.pop("quality")
    [entry] = after["stagetune"]["pruning"]
    assert entry["figures"] == {**result.pruning, "quality": {k: quality[k] for k in list(quality)[:-1]}}
    assert list(quality)[-1] == "fine-tuned"
    assert [stage["name"] for stage in result.stages] == ["head", "layer4"]


@pytest.fixture
def asked(trained: Path, tiny: Callable[..., Config]) -> tuple[Config, StagedTask, Any]:
    """What a run that prunes begins with."""
    words = (f"model.weights={trained}", "model.head=keep", "model.prune.ratio=0.3")
    config = tiny("+experiment=classifier_staged", *words, stages=1)
    data = build_data(config)
    return config, first_task(config, data, file_weights(trained), None), data


@pytest.mark.slow
def test_batch_norm_is_re_estimated_as_the_mean_over_training_batches_and_nothing_else_changes(asked: Any) -> None:
    config, task, data = asked
    stem, before = task.backbone, {name: value.clone() for name, value in task.state_dict().items()}
    modes = [layer.training for layer in task.modules()]
    count = compress.re_estimate(task, data, 3, torch.device("cpu"))
    size = config.data.batch_size
    order = np.random.default_rng(3).permutation(len(data.split.train))[: 32 * size]
    assert count == len(order) // size
    means, variances = [], []
    for i in range(count):
        [batch] = data.in_order("plain", [order[i * size : (i + 1) * size].tolist()])
        maps = stem.conv1(stem._normalised(batch.inputs)).detach().double().numpy()
        means.append(maps.mean(axis=(0, 2, 3)))
        variances.append(maps.var(axis=(0, 2, 3), ddof=1))
    np.testing.assert_allclose(stem.bn1.running_mean.numpy(), np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(stem.bn1.running_var.numpy(), np.mean(variances, axis=0), rtol=1e-4)
    changed = {name.rpartition(".")[2] for name, value in task.state_dict().items() if not value.equal(before[name])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}
    assert [layer.training for layer in task.modules()] == modes
    assert stem.bn1.momentum == 0.1


@pytest.mark.slow
def test_every_process_has_the_network_of_the_first(
    asked: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, first, data = asked
    second = first_task(config, data, file_weights(trained), None)
    whole = weights_key([second.backbone.conv1, second.backbone.bn1])
    sent: list[Any] = []
    monkeypatch.setattr(compress, "from_rank_zero", lambda value, _: sent.append(value) or value)
    compress.compress(config, first, data)
    monkeypatch.setattr(compress, "from_rank_zero", lambda value, _: value or sent[0])
    data.rank = 1
    compress.compress(config, second, data)
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert first.metadata.pruning == second.metadata.pruning
    keys = {weights_key([task.backbone.conv1, task.backbone.bn1]) for task in (first, second)}
    assert len(keys) == 1
    assert whole not in keys  # the feature cache has other tables for it


@pytest.mark.slow
def test_of_a_siamese_run_the_area_under_the_curve_is_what_validation_measures(tiny: Callable[..., Config]) -> None:
    config = tiny("+experiment=siamese_staged", "task.eval_pairs=500", stages=1)
    data = build_data(config)
    task = first_task(config, data, random_weights(), None)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    [measured] = Trainer(accelerator="cpu", **quiet).validate(task, datamodule=data, verbose=False)
    assert compress.quality(task, data, torch.device("cpu")) == pytest.approx(measured["val/auc"], abs=1e-6)


def test_the_schedule_of_stagetune_prune_is_the_last_stage_with_all_that_is_open_then_at_a_tenth() -> None:
    found = last_stage(load_schedule("gradual"))
    [stage], [*_, last] = found.stages, load_schedule("gradual").stages
    assert found.name == "gradual_last"
    assert stage.open == ["head", "layer4", "layer3", "layer2", "layer1", "stem"]
    assert (stage.epochs, stage.lr) == (last.epochs, pytest.approx(0.1 * (last.lr or 0)))
    freezing = Schedule("odd", stages=[Stage("a", ["all"], lr=1.0), Stage("b", freeze=["stem"], lr=1.0)])
    with pytest.raises(ConfigError, match="schedule odd: stage b freezes again"):
        last_stage(freezing)


def test_words_of_its_command_line_change_all_of_it(tmp_path: Path) -> None:
    stored = asdict(compose(["+experiment=classifier_staged", "model=resnet18", "data.image_size=48"]))
    words = ["schedule=full", "name=small", "data.batch_size=8", "model.head=new", "seed=2"]
    config = pruned_config(stored, str(tmp_path), 0.4, [*words, "schedule.stages.0.epochs=2"])
    assert (config.model.title(), config.data.image_size, config.model.prune.ratio) == ("resnet18", 48, 0.4)
    assert (config.schedule.name, config.name, config.data.batch_size, config.seed) == ("full", "small", 8, 2)
    assert (config.model.head, config.schedule.stages[0].epochs) == ("new", 2)
    with pytest.raises(ConfigError, match=r"model\.prune\.rate: no such key in model\.prune"):
        pruned_config(stored, str(tmp_path), 0.4, ["model.prune.rate=0.1"])


@pytest.mark.slow
def test_what_cannot_be_pruned_is_said_before_anything_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in (
        (["model.prune.ratio=1.5"], "model.prune.ratio=1.5: must be at least 0.01 and at most 0.95"),
        (["model.prune.ratio=0.3", "model.weights=random"], "random weights say nothing of a channel"),
        (["model.prune.ratio=0.3", "model=swin_t"], f"swin_t cannot be pruned: {Swin.unprunable(Swin())}"),
    ):
        with pytest.raises(ConfigError) as caught:
            compose(["+experiment=classifier_staged", *words])
        assert said in str(caught.value)
    torch.save({"state_dict": {"conv1.weight": torch.zeros(1)}}, tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match="holds weights alone, and no configuration"):
        prune_run(tmp_path / "weights.pt", 0.3)
    content: dict[str, Any] = {"state_dict": {}}
    config = asdict(compose(["model=resnet18"])) | {"callbacks": {"theirs": {"_target_": "their_package.Callback"}}}
    CheckpointMetadata(config=config).put_into(content)
    torch.save(content, tmp_path / "theirs.ckpt")
    with pytest.raises(WeightsError, match=r"names their_package.Callback, code that .* add --trust"):
        prune_run(tmp_path / "theirs.ckpt", 0.3)
    picture = str(tmp_path / "plan.png")
    main(["plan", "model=resnet18", "model.prune.ratio=0.3", "--picture", picture])
    assert "counts are before model.prune.ratio=0.3" in capsys.readouterr().out


def test_words_that_say_where_it_lies_are_heard_and_those_that_would_prune_another_network_are_refused() -> None:
    assert place_of(["seed=1", "hydra.run.dir='outputs/a b'"]) == "outputs/a b"
    assert place_of(["seed=1"]) is None
    with pytest.raises(ConfigError) as caught:
        place_of(["hydra.verbose=true", "resume=outputs/run", "model.prune.ratio=null", "model=resnet50"])
    assert caught.value.problems == [
        "hydra.verbose=true: cannot be said to a run that is pruned; leave it out",
        "resume=outputs/run: cannot be said to a run that is pruned; leave it out",
        "model.prune.ratio=null: cannot be said to a run that is pruned; leave it out",
        "model=resnet50: cannot be said to a run that is pruned; leave it out",
    ]


@pytest.mark.slow
def test_of_an_edited_history_the_file_is_named_and_its_plan_says_that_it_was_pruned(
    tmp_path: Path, tiny: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    edited = tmp_path / "edited.ckpt"
    content: dict[str, Any] = {"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}
    removed = {"conv1": {"outputs": [0]}}  # and its BatchNorm keeps all
    CheckpointMetadata(config=asdict(compose(["model=resnet18"])), pruning=[{"removed": removed}]).put_into(content)
    torch.save(content, edited)
    config = tiny("+experiment=classifier_staged", f"model.weights={edited}")
    with pytest.raises(WeightsError, match=f"^the weights {edited}: its pruning history is not one of this network"):
        first_task(config, build_data(config), file_weights(edited), None)
    main(["plan", "model=resnet18", f"model.weights={edited}", "--picture", str(tmp_path / "plan.png")])
    assert f"counts are of the whole network; {edited} is of one that was pruned" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("to", ["safetensors", "onnx"])
def test_a_pruned_network_is_exported_as_it_is(to: str, pruned: tuple[Path, RunResult], tmp_path: Path) -> None:
    run, result = pruned
    done = export(run, to=to, file=tmp_path / f"small.{to}")
    assert done.description.provenance["parameters"] == result.pruning["parameters"]["after"]
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    expected = stagetune.load(run, device="cpu")(images)
    torch.testing.assert_close(stagetune.load(done.file, device="cpu")(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_pruned_network_is_none_of_torchvisions(pruned: tuple[Path, RunResult], tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"channels of it are left out \(model\.prune\.ratio\), which no ResNet.*use --to"
    ):
        export(pruned[0], to="torchvision", file=tmp_path / "small.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_job_whose_export_failed_counts_and_exports_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (f"model.weights={tmp_path}", "model.prune.ratio=0.3")
    folder = leave(
        tmp_path / "job" / "seed-0", 0.9, *words, pruning={"ratio": 0.3, "macs": {"before": 2, "after": 1}}
    )
    config = read_config(stored_config(RunDir(folder)))
    outcomes: list[BaseException | None] = [RuntimeError("it broke"), KeyboardInterrupt(), None]

    def fails_once(run_dir: Path, **_: Any) -> Any:
        if error := outcomes.pop(0):
            raise error
        file = run_dir / "exports" / "best-int8.onnx"
        file.parent.mkdir()
        file.touch()
        return SimpleNamespace(file=file)

    monkeypatch.setattr("stagetune.inference.export.export.export", fails_once)
    assert state_of(folder, config) == "export"
    make_ready(Job((), config, folder))
    assert (folder / "result.json").exists()
    assert run_job(config, folder) == 0.9
    assert "int8      not exported: RuntimeError: it broke" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_job(config, folder)
    assert f"the same command again goes on with {folder}" in capsys.readouterr().err
    assert run_job(config, folder) == 0.9
    assert state_of(folder, config) == "done"


@pytest.mark.parametrize("higher", [True, False])
def test_the_pareto_front_has_the_points_that_no_other_beats(higher: bool) -> None:
    rng = np.random.default_rng(0)
    for count in range(1, 40):
        points = [(float(cost), float(score)) for cost, score in rng.integers(0, 9, (count, 2))]
        sign = 1 if higher else -1
        unbeaten = {
            one
            for one in points
            if not any(other != one and other[0] <= one[0] and sign * other[1] >= sign * one[1] for other in points)
        }
        found = pareto(points, higher_is_better=higher)
        assert found == sorted(unbeaten)


def test_the_report_compares_quality_and_latency(tmp_path: Path) -> None:
    for i, (ratio, busy) in enumerate([(0.1, 1.0), (0.3, 3.0), (0.5, 1.0)]):
        after = 10 * (1 - ratio)
        latency = {"before": {"1": 99.0, "8": 10.0 * busy}, "after": {"1": 99.0, "8": after * busy}, "measured": "so"}
        pruning = {
            "ratio": ratio, "latency_ms": latency, "macs": {"before": 100, "after": 50}, "metric": "val/auc",
            "quality": {"before": 0.95, "fine-tuned": 0.9 - ratio / 10},
        }  # fmt: skip
        words = (f"model.weights={tmp_path}", f"model.prune.ratio={ratio}")
        folder = leave(tmp_path / str(i), 0.9 - ratio / 10, *words, pruning=pruning)
        (folder / "exports").mkdir()
        (folder / "exports" / "torn.json").write_text("{")
        (folder / "exports" / "fp32.onnx.json").write_text('{"provenance": {"export": {"precision": "fp32"}}}')
    times = {"before": {"8": 6.0}, "after": {"8": 1.5}}  # it took the network a quarter of its own time
    small = {"precision": "int8", "measure": "auc", "before": 0.85, "after": 0.84, "latency_ms": times}
    (tmp_path / "2" / "exports" / "best-int8.onnx.json").write_text(json.dumps({"provenance": {"export": small}}))
    summary = summarize(collect(tmp_path))
    names = [f"model.prune.ratio={ratio}" for ratio in (0.1, 0.3, 0.5)]
    assert speed_points(summary) == [
        Point("unpruned", "unpruned", 10.0, pytest.approx(0.95)),
        Point(names[0], "fp32", pytest.approx(9.0), pytest.approx(0.89)),
        Point(names[1], "fp32", pytest.approx(7.0), pytest.approx(0.87)),  # on a machine that was busier
        Point(names[2], "fp32", pytest.approx(5.0), pytest.approx(0.85)),
        Point(names[2], "int8", pytest.approx(1.25), pytest.approx(0.84)),
    ]
    figure = draw_speed(summary)
    assert figure is not None
    [line] = figure.axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [1.25, 5, 7, 9, 10])
