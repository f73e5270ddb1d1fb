"""Every shipped schedule on ResNet50, as literal tables: what is open, from where on, at which rates."""

import pytest

from stagetune.config.compose import CONF, compose
from stagetune.config.monitor import watched
from stagetune.schedule.load import load_schedule
from stagetune.schedule.network import describe
from stagetune.schedule.plan import NO_DECAY
from stagetune.schedule.resolve import make_plan
from test_schedule import task

# name -> (stage, first epoch, epochs, trainable parameters, frozen prefix, rate by group)
PRESETS = {
    "head_only": [
        ("head", 0, 20, 20490, 5, {"head": 0.005}),
    ],
    "full": [
        (
            "all",
            0,
            8,
            23528522,
            0,
            {"stem": 0.0003, "layer1": 0.0003, "layer2": 0.0003, "layer3": 0.0003, "layer4": 0.0003, "head": 0.0003},
        ),
    ],
    "staged": [
        ("head", 0, 8, 20490, 5, {"head": 0.003}),
        ("layer4", 8, 3, 14985226, 4, {"layer4": 0.0005, "head": 0.001}),
        (
            "all",
            11,
            4,
            23528522,
            0,
            {
                "stem": 8.403e-05,
                "layer1": 0.00012,
                "layer2": 0.0001715,
                "layer3": 0.000245,
                "layer4": 0.00035,
                "head": 0.0005,
            },
        ),
    ],
    "gradual": [
        ("head", 0, 1, 20490, 5, {"head": 0.001}),
        ("layer4", 1, 1, 14985226, 4, {"layer4": 0.000385, "head": 0.001}),
        ("layer3", 2, 1, 22083594, 3, {"layer3": 0.0001482, "layer4": 0.000385, "head": 0.001}),
        ("layer2", 3, 1, 23303178, 2, {"layer2": 5.707e-05, "layer3": 0.0001482, "layer4": 0.000385, "head": 0.001}),
        (
            "layer1",
            4,
            1,
            23518986,
            1,
            {"layer1": 2.197e-05, "layer2": 5.707e-05, "layer3": 0.0001482, "layer4": 0.000385, "head": 0.001},
        ),
        (
            "all",
            5,
            3,
            23528522,
            0,
            {
                "stem": 8.459e-06,
                "layer1": 2.197e-05,
                "layer2": 5.707e-05,
                "layer3": 0.0001482,
                "layer4": 0.000385,
                "head": 0.001,
            },
        ),
    ],
    "lp_ft": [
        ("probe", 0, 12, 20490, 5, {"head": 0.005}),
        (
            "finetune",
            12,
            4,
            23528522,
            0,
            {"stem": 0.0001, "layer1": 0.0001, "layer2": 0.0001, "layer3": 0.0001, "layer4": 0.0001, "head": 0.0001},
        ),
    ],
    "last_n": [
        ("head", 0, 8, 20490, 5, {"head": 0.003}),
        ("last_20", 8, 6, 14985226, 4, {"layer4": 0.0003, "head": 0.0003}),
    ],
    "by_name": [
        ("head", 0, 8, 20490, 5, {"head": 0.003}),
        ("layer4", 8, 3, 14985226, 4, {"layer4": 0.0005, "head": 0.0005}),
        ("layer3_weights", 11, 3, 22073354, 3, {"layer3.part1": 0.0002, "layer4": 0.0002, "head": 0.0002}),
    ],
    "half": [
        ("head", 0, 8, 20490, 5, {"head": 0.003}),
        ("half", 8, 6, 21099530, 3, {"layer3.part2": 1e-05, "layer4": 1e-05, "head": 0.0001}),
    ],
    "quartiles": [
        (
            "all",
            0,
            8,
            23528522,
            0,
            {
                "stem": 1e-06,
                "layer1": 1e-06,
                "layer2.part1": 1e-06,
                "layer2.part2": 1e-05,
                "layer3.part1": 1e-05,
                "layer3.part2": 0.0001,
                "layer4": 0.0001,
                "head": 0.0001,
            },
        ),
    ],
    "rising": [
        ("one", 0, 5, 14985226, 4, {"layer4": 1e-05, "head": 1e-05}),
        ("two", 5, 5, 22083594, 3, {"layer3": 5e-05, "layer4": 5e-05, "head": 5e-05}),
        ("three", 10, 5, 23303178, 2, {"layer2": 0.0001, "layer3": 0.0001, "layer4": 0.0001, "head": 0.0001}),
    ],
    "top_blocks": [
        ("head", 0, 8, 20490, 5, {"head": 0.003}),
        ("top", 8, 6, 22083594, 3, {"layer3": 0.0001, "layer4": 0.0001, "head": 0.0001}),
    ],
    "surgical": [
        ("head", 0, 8, 20490, 5, {"head": 0.003}),
        ("first", 8, 4, 9536, 0, {"stem": 0.001}),
    ],
    "plateau": [  # at most so many epochs, so where the later stages begin is not known before
        ("head", 0, 12, 20490, 5, {"head": 0.003}),
        ("layer4", None, 8, 14985226, 4, {"layer4": 0.00025, "head": 0.0005}),
        (
            "all",
            None,
            12,
            23528522,
            0,
            {
                "stem": 3.361e-05,
                "layer1": 4.802e-05,
                "layer2": 6.86e-05,
                "layer3": 9.8e-05,
                "layer4": 0.00014,
                "head": 0.0002,
            },
        ),
    ],
    "backbone_finetuning": [  # BatchNorm's weights are open from the first, as train_bn says
        ("head", 0, 4, 73610, 0, {"head": 0.001}),
        (
            "epoch_4",
            4,
            1,
            23528522,
            0,
            {
                "stem.part1": 0.0001,
                "layer1.part1": 0.0001,
                "layer2.part1": 0.0001,
                "layer3.part1": 0.0001,
                "layer4.part1": 0.0001,
                "head": 0.001,
            },
        ),
        (
            "epoch_5",
            5,
            1,
            23528522,
            0,
            {
                "stem.part1": 0.0002,
                "layer1.part1": 0.0002,
                "layer2.part1": 0.0002,
                "layer3.part1": 0.0002,
                "layer4.part1": 0.0002,
                "head": 0.001,
            },
        ),
        (
            "epoch_6",
            6,
            1,
            23528522,
            0,
            {
                "stem.part1": 0.0004,
                "layer1.part1": 0.0004,
                "layer2.part1": 0.0004,
                "layer3.part1": 0.0004,
                "layer4.part1": 0.0004,
                "head": 0.001,
            },
        ),
        (
            "epoch_7",
            7,
            1,
            23528522,
            0,
            {
                "stem.part1": 0.0008,
                "layer1.part1": 0.0008,
                "layer2.part1": 0.0008,
                "layer3.part1": 0.0008,
                "layer4.part1": 0.0008,
                "head": 0.001,
            },
        ),
        (
            "epoch_8",
            8,
            2,
            23528522,
            0,
            {
                "stem.part1": 0.001,
                "layer1.part1": 0.001,
                "layer2.part1": 0.001,
                "layer3.part1": 0.001,
                "layer4.part1": 0.001,
                "head": 0.001,
            },
        ),
    ],
    "llrd": [  # the head's rate times 0.7 for each block below
        (
            "all",
            0,
            8,
            23528522,
            0,
            {
                "stem": 5.042e-05,
                "layer1": 7.203e-05,
                "layer2": 0.0001029,
                "layer3": 0.000147,
                "layer4": 0.00021,
                "head": 0.0003,
            },
        ),
    ],
    "auto_rgn": [  # each tensor is a group of its own; what they share is scaled in training
        ("head", 0, 8, 20490, 5, {"head": 0.003}),
        (
            "all",
            8,
            6,
            23528522,
            0,
            {"stem": 0.001, "layer1": 0.001, "layer2": 0.001, "layer3": 0.001, "layer4": 0.001, "head": 0.001},
        ),
    ],
    "l2_sp": [
        ("head", 0, 8, 20490, 5, {"head": 0.003}),
        (
            "all",
            8,
            6,
            23528522,
            0,
            {"stem": 0.0003, "layer1": 0.0003, "layer2": 0.0003, "layer3": 0.0003, "layer4": 0.0003, "head": 0.0003},
        ),
    ],
    "freeze_stem": [
        (
            "all",
            0,
            8,
            23518986,
            1,
            {"layer1": 0.0003, "layer2": 0.0003, "layer3": 0.0003, "layer4": 0.0003, "head": 0.0003},
        ),
    ],
    "scratch": [
        (
            "all",
            0,
            6,
            23528522,
            0,
            {"stem": 0.001, "layer1": 0.001, "layer2": 0.001, "layer3": 0.001, "layer4": 0.001, "head": 0.001},
        ),
    ],
}


def test_every_preset_is_in_the_table() -> None:
    assert set(PRESETS) == {path.stem for path in (CONF / "schedule").glob("*.yaml")}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_opens_exactly_this_at_these_rates(name: str) -> None:
    plan = make_plan(watched(compose([f"schedule={name}"])), describe(task("resnet50")))
    by_tensor = any(stage.lr_scale for stage in plan.stages)  # then the table has them by block
    labels = {g.name: g.block if by_tensor else g.name.removeprefix("backbone.") for g in plan.groups}
    found = []
    for stage in plan.stages:
        seen = {group: float(f"{rate:.4g}") for group, rate in stage.rates.items()}
        rates = {labels[group]: rate for group, rate in seen.items() if rate and NO_DECAY not in group}
        found.append(
            (stage.name, stage.start_epoch, stage.epochs, stage.trainable_parameters, stage.frozen_prefix, rates)
        )
        for group, rate in seen.items():  # norms and biases go with the weights beside them
            assert rate == rates.get(labels[group].removesuffix(NO_DECAY), rate), group
    assert found == PRESETS[name]


def test_what_else_a_stage_does_to_rates_and_gradients() -> None:
    for name in PRESETS:
        schedule = load_schedule(name)
        found = [(stage.lr_scale, stage.l2_sp) for stage in schedule.stages]
        last = {"auto_rgn": ("relative_gradient_norm", 0.0), "l2_sp": (None, 0.01)}.get(name, (None, 0.0))
        assert found == [(None, 0.0)] * (len(found) - 1) + [last]


def test_a_preset_says_where_it_is_from_and_its_command() -> None:
    for path in (CONF / "schedule").glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# "), path
        if path.stem not in ("scratch", "staged", "full", "head_only"):
            command = f"python train.py +experiment=siamese_staged schedule={path.stem}"
            assert any(command in line for line in lines[:4]), path
