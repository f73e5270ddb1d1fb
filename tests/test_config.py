"""Config errors are found all at once and said in words that help."""

import re
from dataclasses import MISSING, Field, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from stagetune.config.compose import CONF, compose, explain
from stagetune.config.parts import PACKAGES, names, part, settings_in, wrappers
from stagetune.config.settings import GroupSettings, LossSettings, ModelSettings, TaskSettings
from stagetune.config.validate import validate
from stagetune.errors import ConfigError

NO_GROUPS = ("experiment", "sweep", "hydra", "train.yaml")
GROUPS = sorted(path for path in CONF.iterdir() if path.name not in NO_GROUPS)


def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return caught.value.problems


@pytest.mark.parametrize("path", sorted((CONF / "experiment").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_composes_and_validates(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()  # that some of them read
    monkeypatch.chdir(tmp_path)
    name = path.relative_to(CONF / "experiment").with_suffix("")
    config = compose([f"+experiment={name}"])
    assert config.name == path.stem
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header[0] == "# @package _global_"
    assert any(f"python train.py +experiment={name}" in line for line in header)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((CONF / "sweep").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_composes_and_says_what_it_varies(path: Path) -> None:
    config = compose([f"+sweep={path.stem}"])
    assert config.sweep.name == f"{path.stem}_{config.name}"
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header[0] == "# @package _global_"
    assert any(f"python train.py -m +sweep={path.stem}" in line for line in header)
    varied = yaml.safe_load(path.read_text())["hydra"]["sweeper"]["params"]
    for key, values in varied.items():
        for value in str(values).split(","):
            compose([f"+sweep={path.stem}", f"{key}={value}"])


@pytest.mark.parametrize(
    "path",
    [p for g in GROUPS for p in sorted(g.rglob("*.yaml")) if p.stem != "fsdp"],
    ids=lambda p: f"{p.parent.name}={p.stem}",
)
def test_every_group_option_composes_and_validates(path: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").touch()
    option = f"{path.parent.relative_to(CONF)}={path.stem}"
    needs = {
        "data=image_folder": [f"data.root={tmp_path}"],
        "data=omniglot": [f"data.root={tmp_path}", "task=siamese", "loss=bce"],
        "data=lfw": [f"data.root={tmp_path}", "task=siamese", "loss=bce"],
        "data=hf": ["data.path=uoft-cs/cifar10"],
        "data=cub": [f"data.root={tmp_path}"],
        "data=sop": [f"data.root={tmp_path}", "task=siamese", "loss=bce"],
        "data=identity_csv": [f"data.csv={tmp_path}/table.csv"],
        "data=pairs": ["task=siamese", "loss=bce", f"data.pairs={tmp_path}/table.csv"],
        "task=siamese": ["loss=contrastive"],
        "precision=fp16": ["trainer=gpu"],
        "model=own": ["model.network._target_=a.Net", "model.blocks=[low,layer4]"],
    }
    if "name: torchvision" in path.read_text():
        needs[option] = [f"data.root={tmp_path}"]
    if option.startswith("loss=") and path.stem not in ("cross_entropy", "focal"):
        needs[option] = ["task=siamese"]
    compose([option, *needs.get(option, [])])


def test_every_key_of_a_group_file_says_its_effect() -> None:
    for group in GROUPS:
        for path in sorted(group.glob("*.yaml")):
            lines = path.read_text().splitlines()
            assert lines[0].startswith("#"), path
            values = yaml.safe_load(path.read_text())
            # the library's own, or said by the header; what all data can be told stands in train.yaml
            silent = {
                "name",
                "_target_",
                "arch",
                "stages",
                "accelerator",
                "devices",
                "csv",
                "precision",
                "accumulation",
            }
            silent |= {"version", "save_dir", "momentum", "nesterov", "betas"} | set(train_yaml().get(group.name, {}))
            for line in lines[1:]:
                key = line.strip().split(":")[0]
                if key in values and key not in silent:
                    assert "  # " in line, f"{path}: {line}"


SETTING = re.compile(r"^(?:# ?)?( *)(\w+): ?(.*?)(?:  # (.+))?$")


def listed(lines: list[str]) -> dict[str, tuple[str, str]]:
    """The settings that lines of a file list, also behind a #: of each its value and its effect."""
    found = (SETTING.match(line) for line in lines)
    return {match[2]: (match[3], match[4] or "") for match in found if match}


def train_yaml() -> dict[str, dict[str, tuple[str, str]]]:
    """What conf/train.yaml lists, of each group, that all its options can be told."""
    groups: dict[str, list[str]] = {}
    for line in (CONF / "train.yaml").read_text().splitlines():
        if heading := re.match(r"# (\w+):$", line):
            inside = groups.setdefault(heading[1], [])
        elif line.startswith("#   "):
            inside.append(line)
    return {group: listed(lines) for group, lines in groups.items()}


def assert_as_declared(entries: dict[str, tuple[str, str]], declared: dict[str, Field[Any]], path: object) -> None:
    """Each setting is listed with its default where it stands behind a #, an effect, and all its choices."""
    assert set(entries) == set(declared), path
    for key, (value, effect) in entries.items():
        assert effect, f"{path}: {key} has no effect"
        default = declared[key].default if declared[key].default is not MISSING else declared[key].default_factory()
        default = asdict(default) if is_dataclass(default) else default
        assert yaml.safe_load(value) == default, f"{path}: {key} is {default} by default"
        missing = [
            c for c in declared[key].metadata.get("choices", ()) if not re.search(rf"\b{c}\b", f"{value} {effect}")
        ]
        assert not missing, f"{path}: {key} does not speak of {missing}"


BASES = {"task": TaskSettings, "model": ModelSettings, "data": GroupSettings, "loss": LossSettings}


def own_entries(kind: Any, group: str) -> set[str]:
    """What a part can be told beside what all of its kind can, or has another default of."""
    base = {entry.name: entry.default for entry in fields(BASES[group])}
    differs = {entry.name for entry in fields(kind) if entry.default != base.get(entry.name, "nowhere")}
    return differs - {"name"}


@pytest.mark.parametrize("group", BASES)
def test_train_yaml_lists_what_all_options_of_a_group_can_be_told(group: str) -> None:
    own = [own_entries(settings_in(PACKAGES[group], name), group) for name in names(PACKAGES[group])]
    nowhere_common = set.intersection(*own) | {"name"}
    declared = {entry.name: entry for entry in fields(BASES[group]) if entry.name not in nowhere_common}
    if group == "data":
        declared |= {entry.name: entry for wrapper in wrappers() for entry in fields(wrapper)}
    assert_as_declared(train_yaml().get(group, {}), declared, "conf/train.yaml")


@pytest.mark.parametrize("group", BASES)
def test_the_file_of_an_option_lists_what_its_part_can_be_told(group: str) -> None:
    """With its defaults behind a #, and what differs as a key: yaml files say nothing twice."""
    for path in sorted((CONF / group).glob("*.yaml")):
        given = yaml.safe_load(path.read_text())
        kind = settings_in(PACKAGES[group], given["name"])
        declared = {entry.name: entry for entry in fields(kind)}
        own = {key: declared[key] for key in own_entries(kind, group)}
        entries = listed(path.read_text().splitlines()[1:])
        assert set(given) <= set(declared), path
        for key in set(given) - {"name", "network"}:
            assert given[key] != declared[key].default or key in ("arch", "dataset"), (
                f"{path}: {key} is that by default"
            )
        assert set(own) <= set(entries) | {"arch"}, path
        behind = {key: entry for key, entry in entries.items() if key in own and key not in given}
        assert_as_declared(behind, {key: own[key] for key in behind}, path)
        assert set(entries) <= set(declared) | {"_target_", "Command"}, path


def test_typos_of_every_kind_are_reported_together() -> None:
    assert problems("data.image_sizee=3", "schedule=stagedd", "seed=abc", "dta.x=1", "precision=fp17") == [
        "schedule=stagedd: no such schedule; did you mean staged?",
        "dta: no such key; did you mean data?",
        "precision=fp17: no such precision; did you mean fp16?",
        "seed: expects a whole number, got 'abc'",
        "data.image_sizee: no such key in data; did you mean data.image_size?",
    ]


def test_a_typo_of_a_single_setting_and_a_choice_that_the_model_does_not_know_are_told_apart() -> None:
    assert problems("emaa=0.9") == ["emaa: no such key or group; did you mean ema?"]
    assert problems("came_frozen=open") == ["came_frozen=open: it goes with model=own; no others come frozen"]


def test_an_experiment_that_does_not_exist_is_answered_with_the_nearest() -> None:
    assert problems("+experiment=siamese_stagd") == [
        "experiment=siamese_stagd: no such experiment; did you mean siamese_staged?"
    ]


def test_an_experiment_without_its_plus_is_told_to_write_it() -> None:
    assert problems("experiment=siamese_staged") == ["experiment=siamese_staged: write +experiment=siamese_staged"]


def test_a_value_typo_of_a_sweep_is_found_among_its_values() -> None:
    error = explain(RuntimeError("?"), ["schedule=staged,fulll"])
    assert error.problems == ["schedule=fulll: no such schedule; did you mean full?"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["schedule.stages.1.open=[layer5]"],
            "schedule.stages[1].open: no block named layer5; did you mean layer4?",
        ),
        (
            ["schedule.stages.1.open=[head]"],
            "schedule.stages[1] (layer4): unfreezes nothing, head is open already; "
            "name a block that is still frozen, or remove the stage",
        ),
        (
            ["schedule.stages.0.open=[]"],
            "schedule.stages[0] (head): unfreezes nothing, its open is empty; "
            "name a block that is still frozen, or remove the stage",
        ),
        (["schedule.stages.0.lr=0"], "schedule.stages[0] (head): lr and lr_decay must be greater than 0"),
        (["schedule.stages.0.epochs=0"], "schedule.stages[0].epochs=0: must be at least 1"),
        (
            ["schedule.stages.1.name=head"],
            "schedule.stages[1].name=head: stands twice; every stage has a name of its own",
        ),
        (["schedule.stages=[]"], "schedule.stages: is empty; choose schedule=staged, or list at least one stage"),
        (
            ["schedule.stages.0.lr_decay=0.5"],
            "schedule.stages.0.lr_decay: does not stand in the file that it would change; "
            "add it with a plus, +schedule.stages.0.lr_decay=...",
        ),
        (
            ["schedule=full", "schedule.stages.1.lr=0.5"],
            "schedule.stages.1.lr=0.5: the list has fewer entries than that; they count from 0",
        ),
        (
            ["task=siamese"],
            "loss=cross_entropy: does not fit task=siamese; choose loss=arcface, loss=bce, loss=contrastive, "
            "loss=multi_similarity, loss=nt_xent, loss=proxy_anchor, loss=supcon, loss=triplet",
        ),
        (
            ["task.monitor=val/acuracy"],
            "task.monitor=val/acuracy: no such metric of classifier; did you mean val/accuracy?",
        ),
        (
            ["data=image_folder"],
            "data.root: is missing; give the folder that holds one folder per class, data.root=path/to/images",
        ),
        (
            ["data=image_folder", "data.root="],  # not the folder that one is in
            "data.root: is missing; give the folder that holds one folder per class, data.root=path/to/images",
        ),
        (
            ["data.turned=true"],
            "data.turned: makes identities of turned images, no classes to be named; use task=siamese",
        ),
        (
            ["data.spliced=2", "data.centred=true"],
            "data.spliced: makes identities of spliced images, no classes to be named; use task=siamese",
        ),
        (
            ["task=siamese", "loss=triplet", "data=omniglot", "data.root=.", "data.spliced=2"],
            "data.spliced=2: lays halves of centred drawings together; add data.centred=true",
        ),
        (
            ["model.pooled=[layer4,layer3]"],
            "model.pooled=['layer4', 'layer3']: takes blocks in forward order up to layer4, of stem, layer1, layer2, "
            "layer3, layer4",
        ),
        (
            ["model=own", "model.network._target_=a.B", "model.blocks=[a,layer4]", "+model.pooled=[layer4]"],
            "model.pooled: model=own does not read it, model=resnet, vgg do",
        ),
        (
            ["data.split=identities"],
            "data.split=identities: a classifier cannot name unseen classes; use data.split=images or task=siamese",
        ),
        (
            ["precision=fp16", "trainer=gpu", "+trainer.gradient_clip_val=1.0"],
            "precision=fp16: a fused optimizer cannot clip scaled gradients; add optimizer.fused=false",
        ),
        (
            ["precision=fp16", "trainer=gpu", "+schedule.stages.0.gradient_clip_val=1.0"],
            "precision=fp16: a fused optimizer cannot clip scaled gradients; add optimizer.fused=false",
        ),
        (
            ["loss.class_weights=[1,-2,0.5]"],
            "loss.class_weights=[1, -2, 0.5]: expects balanced, or a list with a number above 0 for each class",
        ),
        (
            ["loss=focal", "loss.class_weights=balansed"],
            "loss.class_weights=balansed: expects balanced, or a list with a number above 0 for each class",
        ),
        (["precision=fp16", "trainer=cpu"], "precision=fp16: a CPU cannot train in fp16; use precision=bf16"),
        (
            ["+trainer.limit_val_batches=0"],
            "trainer.limit_val_batches: cannot be set; did you mean trainer.limit_train_batches?",
        ),
        (
            ["+trainer.gradient_clip_algorithm=value"],
            "trainer.gradient_clip_algorithm=value: has no effect where nothing is clipped; "
            "add +trainer.gradient_clip_val=1.0, or leave it out",
        ),
        (["trainer.devices=2"], "trainer.devices=2: several devices train together with trainer=ddp; add it"),
        (
            ["trainer=fsdp"],
            "trainer.strategy=fsdp: FSDP binds parameters together that stages free singly; use trainer=ddp",
        ),
        (["seed=5000000000"], "seed=5000000000: must be at least 0 and at most 4294967295"),
        (
            ["data.root=images"],
            "data.root: data=digits does not read it, "
            "data=cub, identity_csv, image_folder, lfw, omniglot, pairs, sop, torchvision do",
        ),
        (["data.pairs=p.csv"], "data.pairs: data=digits does not read it, data=pairs does"),
        (
            ["data=identity_csv"],
            "data.csv: is missing; give the table with columns path and identity, data.csv=path/to/images.csv",
        ),
        (
            ["task=siamese", "loss=triplet", "data=pairs", f"data.pairs={__file__}"],
            "data=pairs: loss=triplet needs identities; use loss=bce or loss=contrastive",
        ),
        (["data.depth=2"], "data.depth: data=digits does not read it, data=image_folder does"),
        (
            ["data=image_folder", "data.root=~/images"],
            "data.root=~/images: cannot be read; quote the value twice, 'data.root=\"~/images\"'",
        ),
        (
            ["data=glyphs", "data.test_groups=[greek]"],
            "data.val_groups and data.test_groups: have an effect with data.split=identities or groups; add it",
        ),
        (
            ["+logger.lightning={name: x}"],
            "logger.lightning._target_: is missing; choose logger=tensorboard, or name a Lightning logger",
        ),
        (
            ["schedule.stages=[{name: a, open: [head], epochs: 2, steps: 3, lr: 1}]"],
            "schedule.stages[0] (a): gives both epochs and steps; a stage has one length",
        ),
        (
            ["schedule.stages=[{name: a, open: [head], until: {monitor: val/acuracy, patiense: 2}, lr: 1}]"],
            "schedule.stages[0].until.patiense: no such key in schedule.stages[0].until; "
            "did you mean schedule.stages[0].until.patience?",
        ),
        (
            ["schedule.stages=[{name: a, open: [head], until: {monitor: val/acuracy}, lr: 1}]"],
            "schedule.stages[0].until.monitor=val/acuracy: no such metric; did you mean val/accuracy?",
        ),
        (
            ["schedule.stages=[{name: a, open: [head], steps: 9, warmup: 1, lr: 1}]"],
            "schedule.stages[0].warmup=1.0: counts epochs, the stage counts steps; use warmup_steps",
        ),
        (
            ["+schedule.stages.0.lr_scheduler=cosin"],
            "schedule.stages[0].lr_scheduler=cosin: no such choice; did you mean cosine?",
        ),
        (
            ["+schedule.stages.0.lr_scheduler={gamma: 1}"],
            "schedule.stages[0].lr_scheduler._target_: is missing; name a class of torch.optim.lr_scheduler",
        ),
        (["trainer=ddp", "trainer.devices=0"], "trainer.devices=0: expects a whole number of at least 1"),
        (
            ["model=own", "model.blocks=[low,layer4]"],
            "model.network._target_: is missing; name the class of your network, my_package.MyNetwork",
        ),
        (
            ["model=own", "model.network._target_=a.B", "model.blocks=[low,high]"],
            "schedule.stages[1].open: no block named layer4; valid: low, high, head, all",
        ),
        (
            ["+model.blocks=[layer4]"],
            "model.blocks: model=resnet does not read it, model=own does",
        ),
        (["+trainer.max_epochs=3"], "trainer.max_epochs: is decided by the schedule's epochs; remove it"),
        (["+optimizer.lr=0.1"], "optimizer.lr: learning rates belong to the stages; set lr in schedule.stages"),
        (
            ["data.val=0.6", "data.test=0.5"],
            "data.val=0.6 and data.test=0.5: leave nothing to train on; keep their sum below 0.95",
        ),
        (["data.val=2"], "data.val=2.0: must be at least 0.01 and at most 0.9"),
        (["seed=true"], "seed: expects a whole number, got True"),
    ],
)  # fmt: skip
def test_one_clear_message(overrides: list[str], expected: str) -> None:
    assert problems(*overrides) == [expected]


def test_paths_that_do_not_exist_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert problems("data=image_folder", "data.root=nowhere", "model.weights=gone.pt") == [
        f"data.root=nowhere: is not there, seen from {tmp_path}; give the folder that holds one folder per class",
        f"model.weights=gone.pt: neither auto, imagenet or random nor a file or run (looked in {tmp_path})",
    ]


def test_problems_inside_a_yaml_file_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        validate({"data": {"rot": 1, "augment": "afine"}, "schedule": {"stages": [{"nam": "x"}]}, "task": 3})
    assert caught.value.problems == [
        "task: expects keys and values, got 3",
        "data.rot: no such key in data; did you mean data.root?",
        "data.augment=afine: no such choice; did you mean affine?",
        "schedule.stages[0].nam: no such key in schedule.stages[0]; did you mean schedule.stages[0].name?",
    ]


def test_defaults_are_of_their_own_types() -> None:
    assert (
        validate(
            {"schedule": {"stages": [{"name": "a", "open": ["head"], "lr": 1}]}, "optimizer": {"_target_": "x"}}
        ).task
        == part("task", "classifier")()
    )
