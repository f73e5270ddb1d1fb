"""What a file from elsewhere names is called only where it is known, typed again or trusted; see docs/trust.md."""

import io
import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml

from outside import Diary
from stagetune import load_schedule
from stagetune.artifacts import CheckpointMetadata, RunDir
from stagetune.cli import show_plan
from stagetune.config.compose import compose
from stagetune.config.resume import resume_command
from stagetune.config.schema import Config
from stagetune.config.validate import completed, read_config
from stagetune.errors import ConfigError, DataError, ScheduleError, StagetuneError, WeightsError, show
from stagetune.inference.checkpoint import load_task
from stagetune.inference.export.images import data_of
from stagetune.inference.prune import prune_run
from stagetune.inference.telling import PREDICTIONS, Teller, print_rows
from stagetune.report.collect import read_sweep
from stagetune.report.commands import show_best, show_report
from stagetune.run import run_experiment
from stagetune.run.build import build_task
from stagetune.run.record import Run
from stagetune.run.resume import check_unfinished
from stagetune.run.screen import Screen
from stagetune.sweep.job import run_job
from stagetune.sweep.jobs import state_of
from stagetune.sweep.study import _is_within
from stagetune.trust import foreign
from stagetune.visible import visible, visible_name
from test_report import leave

NOTED: list[Any] = []
LR = "torch.optim.lr_scheduler"
CALLBACKS, LOGGERS = "lightning.pytorch.callbacks", "lightning.pytorch.loggers"
OWN = {
    "model": {"name": "own", "blocks": ["stem", "layer2", "layer3", "layer4"], "network": {}},
    "loss": {"name": "own"},
    "data": {"name": "own"},
}
PLACES = (
    "model.network", "loss.target", "optimizer", "data.target", "data.transform", "callbacks.kept", "metrics.kept",
    "logger.lightning", "schedule.stages.0.lr_scheduler",
)  # fmt: skip


def noted(*arguments: Any, **more: Any) -> None:
    """What is never to be called by a file."""
    NOTED.append((arguments, more))


def stored(place: str, said: dict[str, Any], *, within: Path | None = None) -> Any:
    """The configuration of a run that has `said` at a place; written into a directory where that is given."""
    values = asdict(compose(["model=resnet18", "optimizer=sgd"]))
    group = place.partition(".")[0]
    if place in ("model.network", "loss.target", "data.target"):
        values[group] = dict(OWN[group])
    *path, last = place.split(".")
    inner: Any = values
    for part in path:
        inner = inner[int(part)] if isinstance(inner, list) else inner[part]
    inner[last] = said
    if within is not None:
        within.mkdir(exist_ok=True)
        (within / "config.yaml").write_text(yaml.safe_dump(values))
    return values


@pytest.fixture
def touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is there once the module `elsewhere` is imported."""
    code = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\ndef anything(*_, **__): pass\n"
    (tmp_path / "elsewhere.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "elsewhere", raising=False)
    return tmp_path / "ran"


@pytest.mark.parametrize("target", ["elsewhere.anything", "test_trust.noted", "builtins.print"])
@pytest.mark.parametrize("place", PLACES)
def test_a_run_names_nothing_of_somebody_s_own(place: str, target: str, tmp_path: Path, touched: Path) -> None:
    run = tmp_path / "run"
    stored(place, {"_target_": target}, within=run)
    with pytest.raises(ConfigError) as caught:
        compose([f"resume={run}"])
    assert caught.value.problems == [
        f"resume={run}: its config.yaml names {target}, code that it does not hold; if you trust where it comes "
        f"from, type it again, {place}._target_={target}, or say trust=true"
    ]
    assert not touched.exists()
    assert not NOTED
    for word in ("trust=true", f"{place}._target_={target}"):
        compose([f"resume={run}", word])
    assert not NOTED  # it is composed: nothing is built


def test_no_run_has_images_fetched(tmp_path: Path) -> None:
    values = asdict(compose(["data=cifar10", "data.download=true"]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert compose([f"resume={tmp_path}", "data.download=true"]).data.download
    with pytest.raises(
        ConfigError, match=r"data\.root=data: is not there.*let torchvision fetch it with data\.download"
    ):
        compose([f"resume={tmp_path}"])
    with pytest.raises(DataError, match=r"they cannot be had: data\.root=data: is not there"):
        data_of(CheckpointMetadata(config=values), [], trust=False)


def test_a_metric_is_looked_at_before_it_is_asked_which_values_are_good(tmp_path: Path, touched: Path) -> None:
    values = stored("metrics.kept", {"_target_": "elsewhere.Metric"})
    values["task"]["monitor"] = "val/kept"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"names elsewhere\.Metric, code that it does not hold"):
        compose([f"resume={tmp_path}"])
    assert completed(values)["task"]["monitor"] == "val/kept"  # as a report reads it
    assert not touched.exists()


def test_a_target_that_is_typed_with_the_words_of_its_group_is_the_same_again(tmp_path: Path) -> None:
    """As the first command had it: its arguments are those that are stored."""
    stored("loss.target", {"_target_": "outside.Focal", "gamma": 3.0}, within=tmp_path)
    config = compose([f"resume={tmp_path}", "loss._target_=outside.Focal"])
    assert asdict(config.loss)["target"] == {"_target_": "outside.Focal", "gamma": 3.0}
    with pytest.raises(ConfigError, match=r"names outside.Focal, code that it does not hold"):
        compose([f"resume={tmp_path}", "loss.gamma=2.0"])


@pytest.mark.parametrize(
    "words",
    [["loss=own"], ["loss._target_=outside.Focal"], ["loss=own", "loss._target_=outside.Focal", "loss.gamma=2.0"]],
)
def test_to_choose_an_own_part_again_trusts_nothing_that_is_stored_in_it(words: list[str], tmp_path: Path) -> None:
    target = {"_target_": "outside.Focal", "gamma": {"_target_": "test_trust.noted"}, "more": [NO_CALLABLE]}
    stored("loss.target", target, within=tmp_path)
    with pytest.raises(ConfigError, match=r"loss\.target\.more\.0\.lr_lambda\._target_=test_trust\.noted"):
        compose([f"resume={tmp_path}", *words])


def test_a_trust_that_says_neither_is_named_itself(tmp_path: Path) -> None:
    stored("optimizer", {"_target_": "test_trust.noted"}, within=tmp_path)
    with pytest.raises(ConfigError) as caught:
        compose([f"resume={tmp_path}", "trust=yes"])
    assert caught.value.problems == ["trust=yes: expects true or false"]


NETWORK = {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Conv2d", "in_channels": 3}]}
NO_CALLABLE = {"_target_": f"{LR}.LambdaLR", "lr_lambda": {"_target_": "test_trust.noted"}}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("model.network", NETWORK),
        ("model.network", {"_target_": "torchvision.models.resnet18", "num_classes": 7}),
        ("model.network", {"_target_": "torchvision.models.resnet.resnet18", "weights": None}),
        ("loss.target", {"_target_": "torch.nn.CrossEntropyLoss", "label_smoothing": 0.1}),
        ("optimizer", {"_target_": "torch.optim.AdamW", "betas": [0.9, 0.95]}),
        ("data.transform", {"_target_": "torchvision.transforms.v2.Compose",
                            "transforms": [{"_target_": "torchvision.transforms.v2.GaussianBlur", "_args_": [3]}]}),
        ("data.transform", {"_target_": "torchvision.transforms.Compose", "transforms": []}),
        ("metrics.kept", {"_target_": "torchmetrics.MinMaxMetric",
                          "base_metric": {"_target_": "torchmetrics.Accuracy", "task": "binary"}}),
        ("callbacks.kept", {"_target_": f"{CALLBACKS}.ModelCheckpoint", "filename": "{epoch}", "save_last": True}),
        ("callbacks.kept", {"_target_": f"{CALLBACKS}.EarlyStopping", "monitor": "val/loss"}),
        ("logger.lightning", {"_target_": f"{LOGGERS}.TensorBoardLogger", "name": "", "version": ""}),
        ("logger.lightning", {"_target_": f"{LOGGERS}.MLFlowLogger", "experiment_name": "mine", "tags": {"a": "b"},
                              "tracking_uri": "sqlite:///outputs/mlflow.db"}),
        ("logger.lightning", {"_target_": f"{LOGGERS}.WandbLogger", "project": "stagetune", "offline": True}),
        ("schedule.stages.0.lr_scheduler", {"_target_": f"{LR}.SequentialLR", "milestones": [2], "schedulers": [
            {"_target_": f"{LR}.LinearLR"}, {"_target_": f"{LR}.ExponentialLR", "gamma": 0.5}]}),
    ],
)  # fmt: skip
def test_known_classes_need_no_word(place: str, said: dict[str, Any]) -> None:
    assert foreign(stored(place, said)) == []


@pytest.mark.parametrize(
    ("place", "said", "found"),
    [
        # of known packages what is no class of the kind, or was only imported there
        ("optimizer", {"_target_": "torch.nn.Linear"}, ["optimizer._target_=torch.nn.Linear"]),
        ("optimizer", {"_target_": "torch.optim.Optimizer.step"}, ["optimizer._target_=torch.optim.Optimizer.step"]),
        ("model.network", {"_target_": "torchvision.models.get_model"},
         ["model.network._target_=torchvision.models.get_model"]),
        ("model.network", {"_target_": "torch.nn.functional.relu"},
         ["model.network._target_=torch.nn.functional.relu"]),
        ("loss.target", {"_target_": "torch.nn.modules.loss.warnings.warn"},
         ["loss.target._target_=torch.nn.modules.loss.warnings.warn"]),
        ("schedule.stages.0.lr_scheduler", {"_target_": f"{LR}.partial"},
         [f"schedule.stages.0.lr_scheduler._target_={LR}.partial"]),
        # at another place, or where nothing may stand
        ("callbacks.kept", {"_target_": "torch.optim.AdamW"}, ["callbacks.kept._target_=torch.optim.AdamW"]),
        ("data.target", {"_target_": "torchvision.datasets.FakeData"},
         ["data.target._target_=torchvision.datasets.FakeData"]),
        ("trainer.profiler", {"_target_": "torch.nn.Identity"}, ["trainer.profiler._target_=torch.nn.Identity"]),
        ("data.transform", {"_target_": ["torch.nn.Identity"]}, ["data.transform._target_=['torch.nn.Identity']"]),
        # what downloads, and what writes elsewhere
        ("metrics.kept", {"_target_": "torchmetrics.text.BERTScore"},
         ["metrics.kept._target_=torchmetrics.text.BERTScore"]),
        ("model.network", {"_target_": "torchvision.models.detection.ssd300_vgg16"},
         ["model.network._target_=torchvision.models.detection.ssd300_vgg16"]),
        ("model.network", {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"},
         ["model.network.weights=DEFAULT"]),
        ("callbacks.kept", {"_target_": f"{CALLBACKS}.ModelCheckpoint", "dirpath": "there"},
         ["callbacks.kept.dirpath=there"]),
        ("callbacks.kept", {"_target_": f"{CALLBACKS}.ModelCheckpoint", "_args_": ["there"]},
         ["callbacks.kept._args_.0=there"]),
        ("callbacks.kept", {"_target_": f"{CALLBACKS}.ModelCheckpoint", "filename": "../../best"},
         ["callbacks.kept.filename=../../best"]),
        ("callbacks.kept", {"_target_": f"{CALLBACKS}.SpikeDetection"},
         ["callbacks.kept._target_=lightning.pytorch.callbacks.SpikeDetection"]),
        ("logger.lightning", {"_target_": f"{LOGGERS}.TensorBoardLogger", "save_dir": "there"},
         ["logger.lightning.save_dir=there"]),
        ("logger.lightning", {"_target_": f"{LOGGERS}.TensorBoardLogger", "version": "/there"},
         ["logger.lightning.version=/there"]),
        ("logger.lightning", {"_target_": f"{LOGGERS}.MLFlowLogger", "tracking_uri": "https://example.org"},
         ["logger.lightning.tracking_uri=https://example.org"]),
        ("logger.lightning", {"_target_": f"{LOGGERS}.WandbLogger", "offline": False},
         ["logger.lightning.offline=False"]),
        ("name", "../../there", ["name=../../there"]),
        ("schedule", {"file": "there.yaml"}, ["schedule.file=there.yaml"]),
        # within what is known
        ("schedule.stages.0.lr_scheduler", NO_CALLABLE,
         ["schedule.stages.0.lr_scheduler.lr_lambda._target_=test_trust.noted"]),
        ("data.transform", {"_target_": "torchvision.transforms.v2.Lambda",
                            "_args_": [{"_target_": "builtins.print", "_partial_": True}]},
         ["data.transform._args_.0._target_=builtins.print"]),
    ],
)  # fmt: skip
def test_what_is_known_in_part_is_looked_at(place: str, said: Any, found: list[str]) -> None:
    assert [f"{one.key}={one.value}" for one in foreign(stored(place, said))] == found


def test_a_place_outside_is_the_run_s_unless_it_is_typed_again(tmp_path: Path) -> None:
    kept = {"_target_": f"{CALLBACKS}.ModelCheckpoint", "dirpath": "/there"}
    stored("callbacks.kept", kept, within=tmp_path)
    with pytest.raises(ConfigError) as caught:
        compose([f"resume={tmp_path}", "seed=0"])
    assert caught.value.problems == [
        f"resume={tmp_path}: its config.yaml names callbacks.kept.dirpath=/there, which is not within the run; if "
        "you trust where it comes from, type it again, callbacks.kept.dirpath=/there, or say trust=true"
    ]
    assert compose([f"resume={tmp_path}", "callbacks.kept.dirpath=/here"]).callbacks["kept"]["dirpath"] == "/here"


def test_no_file_trusts_itself_and_none_is_made_that_does(tmp_path: Path) -> None:
    values = stored("callbacks.kept", {"_target_": "outside.Diary"}) | {"trust": True}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=r"names outside\.Diary, code that it does not hold"):
        compose([f"resume={tmp_path}"])
    content: dict[str, Any] = {"state_dict": {}}
    CheckpointMetadata(config=values).put_into(content)
    torch.save(content, tmp_path / "theirs.ckpt")
    with pytest.raises(WeightsError, match=r"names outside.Diary, code that it does not hold; .* add --trust"):
        prune_run(tmp_path / "theirs.ckpt", 0.3)


SCHEDULES = {
    "stages": {"stages": [{"name": "all", "open": ["all"], "lr": 0.1, "lr_scheduler": {"_target_": "TARGET"}}]},
    "phases": {
        0: {"params": ["head.*"], "lr": 0.1},
        1: {"params": ["backbone.*"], "lr": 0.1, "new_lr_scheduler": {"lr_scheduler_init": {"class_path": "TARGET"}}},
    },
}


@pytest.mark.parametrize(("form", "stage"), [("stages", 0), ("phases", 1)])
def test_a_schedule_file_names_torch_s_schedulers_alone(form: str, stage: int, tmp_path: Path, touched: Path) -> None:
    file = tmp_path / "theirs.yaml"
    text = yaml.safe_dump(SCHEDULES[form])
    file.write_text(text.replace("TARGET", "elsewhere.anything"))
    expected = (
        f"schedule file {file}:\n  stages.{stage}.lr_scheduler._target_: names elsewhere.anything, code that it does "
        "not hold; if you trust where the file comes from, say trust=true (in a program, load_schedule(..., "
        "trust=True))"
    )
    with pytest.raises(ScheduleError) as caught:
        load_schedule(file)
    assert str(caught.value) == expected
    with pytest.raises(ConfigError, match=r"names elsewhere\.anything, code that it does not hold"):
        compose([f"schedule.file={file}"])
    assert not touched.exists()
    trusted = load_schedule(file, trust=True)
    assert compose([f"schedule.file={file}", "trust=true"]).schedule.stages == trusted.stages
    assert load_schedule(asdict(trusted)) == trusted  # what a program makes is its own
    file.write_text(text.replace("TARGET", f"{LR}.StepLR"))
    assert load_schedule(file).stages[stage].lr_scheduler["_target_"] == f"{LR}.StepLR"


def test_a_checkpoint_may_name_the_networks_that_were_typed(tmp_path: Path) -> None:
    config = compose(["model=own", "model.network._target_=networks.Net", "schedule=full", "data.image_size=32",
                      "model.blocks=[stem,layer2,layer3,layer4]"])  # fmt: skip
    content: dict[str, Any] = {"state_dict": build_task(config, config.model.build(32), 2).state_dict()}
    CheckpointMetadata(asdict(config), ["a", "b"]).put_into(content)
    torch.save(content, tmp_path / "own.ckpt")
    for trust in (False, ["networks.Other"]):
        with pytest.raises(WeightsError, match=r"its network is built by networks\.Net, code that the file names"):
            load_task(tmp_path / "own.ckpt", trust=trust)
    load_task(tmp_path / "own.ckpt", trust=["networks.Net"])


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_the_same_sweep_again_needs_no_word(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("+experiment=classifier_staged", "+callbacks.diary._target_=outside.Diary", "trust=true", stages=2)

    class Cut(Exception):
        pass

    def cut(self: Diary, trainer: Any, pl_module: Any, stage: Any) -> None:
        if stage.name == "layer4":
            raise Cut

    run_dir = tmp_path / "job" / "seed-0"
    with monkeypatch.context() as patch:
        patch.setattr(Diary, "on_stage_start", cut)
        with pytest.raises(Cut):
            run_experiment(config, run_dir)
    RunDir(run_dir).result.unlink()  # as if it had been killed
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["trust"] is False  # it was said to that command
    assert state_of(run_dir, config) == "go on"
    assert run_job(config, run_dir) is not None
    assert resume_command("run", config).endswith(" resume=run callbacks.diary._target_=outside.Diary")


def test_what_a_stored_configuration_says_stays_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGETUNE_TOLD", "secret")
    values = stored("name", "${oc.env:STAGETUNE_TOLD}", within=tmp_path)
    assert compose([f"resume={tmp_path}", "seed=0"]).name == "${oc.env:STAGETUNE_TOLD}"
    assert read_config(values).name == completed(values)["name"] == "${oc.env:STAGETUNE_TOLD}"
    file = tmp_path / "s.yaml"
    stage = {"name": "${oc.env:STAGETUNE_TOLD}", "open": ["all"], "lr": 0.1}
    file.write_text(yaml.safe_dump({"stages": [stage]}))
    assert load_schedule(file).stages[0].name == "${oc.env:STAGETUNE_TOLD}"


def test_a_stored_configuration_has_no_other_file_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"schedule\.file=there\.yaml: no run stores one"):
        read_config(stored("schedule", {"file": "there.yaml"}))


# Sweeps


def test_a_sweep_s_file_says_settings_of_runs_within_its_folder_alone(tmp_path: Path) -> None:
    words = ["+experiment=siamese_staged", "schedule=full", "loss.margin=0.5", "~data.transform", "seed=1"]
    more = ["hydra.run.dir=/there", "hydra/launcher=x", "+hydra.callbacks.a.b=c", "trust=true", "resume=there",
            "--config-dir=there", "loss=bce\n  - more", "+resume_with_new_schedule=true"]  # fmt: skip
    jobs = {"full/seed-1": [*words, *more], "../there": words, "/there": words}
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": jobs}))
    assert read_sweep(tmp_path) == {"full/seed-1": words}


def test_a_study_goes_on_with_what_this_command_searches_alone() -> None:
    searched: dict[str, Any] = {
        "schedule": optuna.distributions.CategoricalDistribution(["full", "staged"]),
        "loss.margin": optuna.distributions.FloatDistribution(0.1, 1.0),
    }
    assert _is_within({"schedule": "full", "loss.margin": 0.5}, searched)
    for values in (
        {"schedule": "full", "loss.margin": 2.0},
        {"schedule": "lp_ft", "loss.margin": 0.5},
        {"schedule": "full", "loss.margin": "much"},
        {"schedule": "full", "loss.margin": 0.5, "callbacks.x._target_": "builtins.print"},
        {"callbacks.x._target_": "builtins.print"},
    ):
        assert not _is_within(values, searched)


@pytest.mark.slow
def test_a_page_and_an_experiment_of_a_sweep_from_elsewhere_say_what_it_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acts = "\x1b[31m\u202e<b>"
    for seed, words in enumerate((["schedule=full"], ["schedule=staged"])):
        folder = leave(tmp_path / str(seed), 0.9 - 0.1 * seed, *words, seed=seed)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["loss"] = {"name": "own", "target": {"_target_": "test_trust.noted", "text": "${oc.env:HOME}"}}
        config["schedule"]["name"] += acts
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    leave(tmp_path / "failed", None, seed=2, error=f"{acts}\udcff")
    said = {"0": ["schedule=full", "loss.target=x", "hydra.run.dir=/there"], "1": [f"schedule={acts}"]}
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": said}))
    show_report(tmp_path, [])
    shown = capsys.readouterr().out
    text = (tmp_path / "report.html").read_text()
    for place in (shown, text, (tmp_path / "summary.md").read_text()):
        assert r"\x1b[31m\u202e" in place
        assert r"\udcff" in place
        assert not set("\x1b\u202e\udcff") & set(place)
    assert "<b>" not in text
    assert "hydra" not in text
    show_best(tmp_path)
    printed = capsys.readouterr()
    values = yaml.safe_load(printed.out)
    assert values["defaults"] == [{"override /schedule": "full"}]
    assert values["loss"] == {"target": {"_target_": "test_trust.noted", "text": r"\${oc.env:HOME}"}}  # so it stays
    assert printed.err == (
        "stagetune: it names test_trust.noted, which is run where this file is used; is the sweep yours?\n"
    )
    assert not set("\x1b\u202e\udcff") & set(printed.out)
    assert not NOTED


# Links


def test_what_a_run_writes_goes_through_no_link(tmp_path: Path) -> None:
    outside, run_dir = tmp_path / "outside", RunDir(tmp_path / "run")
    outside.mkdir()
    (outside / "kept").write_text("kept")
    run_dir.callbacks.mkdir(parents=True)
    folders = (run_dir.checkpoints, run_dir.figures, run_dir.exports, run_dir.callbacks / "mine")
    for folder in folders:
        folder.symlink_to(outside)
    for file in (run_dir.config, run_dir.path / "hparams.yaml"):
        file.symlink_to(outside / "kept")
    with pytest.raises(StagetuneError, match=r"run/checkpoints is a link, and nothing is written through one; put "):
        check_unfinished(run_dir, compose([]))
    Run(compose(["model=resnet18"]), run_dir).accept()
    assert not any(folder.is_symlink() for folder in folders)
    assert not run_dir.config.is_symlink()
    assert not (run_dir.path / "hparams.yaml").is_symlink()
    assert [(file.name, file.read_text()) for file in outside.iterdir()] == [("kept", "kept")]


# What is shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat", "cat"),
        ("Tür, 猫 🐈 שלום $5", "Tür, 猫 🐈 שלום $5"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\rb\tc\x07", r"a\rb\tc\x07"),
        ("a\x9b31mb", r"a\x9b31mb"),
        ("a\u202eb\u2066c", r"a\u202eb\u2066c"),
        ("a\udcffb", r"a\udcffb"),
        ("a\u2028b", r"a\u2028b"),
    ],
)
def test_what_acts_on_a_terminal_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == visible_name(text) == shown
    assert (visible(f"{text}\n"), visible_name(f"{text}\n")) == (f"{shown}\n", f"{shown}\\n")


def test_no_name_reaches_the_terminal_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[31m\u202e\udcff\nstagetune: b"
    show(DataError(f"{name}: cannot be read"))
    err = capsys.readouterr().err
    assert err == "stagetune: a\\x1b[31m\\u202e\\udcff\n  stagetune: b: cannot be read\n"
    Screen().line("data", name)
    print_rows([{"identity": name, "images": 2}], "words")
    with Teller("words", [name], PREDICTIONS) as tell:
        tell(name, DataError(f"{name}: is damaged"))
    printed = capsys.readouterr()
    for text in (printed.out, printed.err):
        assert not any(mark in text for mark in ("\x1b", "\u202e", "\udcff"))
    assert printed.out.splitlines() == [
        "data      a\\x1b[31m\\u202e\\udcff",
        "          stagetune: b",
        "a\\x1b[31m\\u202e\\udcff\\nstagetune: b  2",
    ]


def test_data_for_programs_stay_as_they_are() -> None:
    name = "a\x1b[31m"
    with redirect_stdout(io.StringIO()) as out:
        print_rows([{"identity": name, "images": 2}], "json")
        print_rows([{"identity": name, "images": 2}], "csv")
    first, *_, last = out.getvalue().splitlines()
    assert json.loads(first)["identity"] == last.partition(",")[0] == name


def test_the_name_of_a_schedule_file_reaches_no_terminal_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text('name: "a\\e[31m"\nstages: [{name: b, open: [all], lr: 0.1}]\n')
    show_plan(["model=resnet18", "schedule.file=s.yaml"], None)
    assert capsys.readouterr().out.splitlines()[-1] == r"outputs/plans/a\x1b[31m.png"


def test_a_schedule_file_whose_anchors_stand_for_too_much_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x]", *(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(5))]
    (tmp_path / "s.yaml").write_text("\n".join(lines))
    with pytest.raises(ScheduleError, match=r"s\.yaml cannot be read: its anchors \(&\) stand for too much"):
        load_schedule(tmp_path / "s.yaml")
