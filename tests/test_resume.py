"""A run that was killed at any moment and goes on ends as if nothing had happened, bit for bit."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import crashing
from stagetune.config.schema import CheckpointConfig, Config
from stagetune.models.backbones import own
from stagetune.report.result import read_result
from stagetune.schedule.spec import Stage, Until
from stagetune.sweep.jobs import state_of

STAGES = [
    Stage("head", ["head"], until=Until("val/accuracy", "max", patience=1, max_epochs=2), restore_best=True, lr=0.1),
    Stage("layer4", ["layer4"], steps=3, lr=1e-3, lr_scheduler={"_target_": "torch.optim.lr_scheduler.OneCycleLR"}),
    Stage("layer3", ["layer3"], epochs=2, lr=1e-3, lr_scheduler="plateau", warmup=0.5, optimizer_state="reset"),
    Stage("all", ["all"], epochs=1, lr=1e-3, lr_decay=0.5, lr_scheduler="cosine"),
]


@pytest.fixture
def eventful(tiny: Callable[..., Config]) -> Config:
    """Four stages of every length, all that draws at random, accumulation with a leftover, a checkpoint each step."""
    config = tiny(
        "+experiment=classifier_staged",
        "task.head=hidden",
        "task.dropout=0.3",
        "data.augment=affine",
        "data.random_erasing=0.3",
        "data.mixup=0.4",
        "data.cutmix=1.0",
        "data.sampler=balanced",
        "data.batch_size=4",
    )
    config.model = own.Settings(
        "own", network={"_target_": "networks.Net"}, blocks=["stem", "layer2", "layer3", "layer4"]
    )
    config.schedule.stages = STAGES
    config.trainer["limit_train_batches"] = 5
    config.data.val = config.data.test = 0.02
    return replace(config, accumulation=2, checkpoint=CheckpointConfig(min_seconds=0.0, every_n_steps=2))


def outcome(run_dir: Path) -> dict[str, Any]:
    """All that a run leaves and that does not depend on how long it took."""
    last, best = (torch.load(run_dir / "checkpoints" / f"{n}.ckpt", weights_only=True) for n in ("last", "best"))
    result = read_result(run_dir)
    untimed = [
        {k: v for k, v in stage.items() if k not in ("seconds", "samples_per_second", "peak_memory_mb", "cache")}
        for stage in result.stages
    ]
    for scheduler in last["lr_schedulers"]:
        scheduler.pop("_step_count")  # how often this object was stepped, it has no effect
    keys = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")
    return {
        **{key: last[key] for key in keys},
        "best": best["state_dict"],
        "metrics": (run_dir / "metrics.csv").read_text(),
        "result": json.dumps([result.status, result.best, result.test, untimed]),
    }


def assert_equal(ours: Any, expected: Any, path: str = "") -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(ours, expected), path
    elif isinstance(expected, dict):
        assert ours.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_equal(ours[key], value, f"{path}/{key}")
    elif isinstance(expected, list | tuple):
        assert len(ours) == len(expected), path
        for i, value in enumerate(expected):
            assert_equal(ours[i], value, f"{path}/{i}")
    else:
        assert ours == expected, path


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills", "min_seconds", "ema"), [(0, 12, 0.0, None), (2, 6, 1000.0, 0.9)])
def test_a_run_killed_at_random_points_ends_bit_for_bit_as_one_that_was_not(
    workers: int, kills: int, min_seconds: float, ema: float | None, eventful: Config, tmp_path: Path
) -> None:
    """In a stage, at its boundary, in validation, in writing a checkpoint: every hook and write is a point."""
    config = replace(eventful, data=replace(eventful.data, num_workers=workers), ema=ema)
    config.checkpoint.min_seconds = min_seconds
    assert crashing.run(config, tmp_path / "whole") == 0
    expected = outcome(tmp_path / "whole")
    events = int((tmp_path / "whole" / "events").read_text())
    points = np.random.default_rng(workers).choice(np.arange(1, events), kills, replace=False).tolist()
    assert crashing.run(config, tmp_path / "run", copy_at=points) == 0
    assert_equal(outcome(tmp_path / "run"), expected)
    for point in points:
        run_dir = crashing.copy_of(tmp_path / "run", point)  # as a kill at this point leaves it
        for again in (point // 2, None):  # killed in going on, if it gets so far again
            began = (run_dir / "config.yaml").exists()
            code = crashing.run(config, run_dir, resume=began, kill_at=again)
            assert code in ((0,) if again is None else (0, -9)), point
            if code == 0:
                break
        assert_equal(outcome(run_dir), expected, f"killed at {point} of {events}: ")


LATER = [
    ("epochs", [Stage("layer4", ["layer4"], epochs=n, lr=1e-2, restore_best=True, l2_sp=0.1) for n in (1, 3)]),
    (
        "until",
        [
            Stage(
                "all",
                ["all"],
                until=Until("val/loss", patience=5, max_epochs=n),
                lr=1e-2,
                lr_scheduler="plateau",
                warmup=0.5,
            )
            for n in (2, 4)
        ],
    ),
    ("stage", [Stage("layer4", ["layer4"], epochs=1, lr=1e-2, lr_scheduler="cosine")]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("way", "stages"), LATER, ids=[way for way, _ in LATER])
def test_a_completed_run_that_is_asked_for_more_ends_bit_for_bit_as_if_it_had_been_at_first(
    way: str, stages: list[Stage], eventful: Config, tmp_path: Path
) -> None:
    """Also where it is killed on the way, when its earlier result is kept aside."""
    head = Stage("head", ["head"], epochs=1, lr=0.1)
    short, long = (deepcopy(eventful) for _ in range(2))
    short.schedule.stages = [head, stages[0]]
    more = [stages[0], Stage("more", ["all"], epochs=2, lr=1e-3)] if way == "stage" else stages[1:]
    long.schedule.stages = [head, *more]
    for config in (short, long):
        config.schedule.leave_frozen = True
        config.ema = 0.9 if way == "epochs" else None
    assert crashing.run(long, tmp_path / "whole") == 0
    expected = outcome(tmp_path / "whole")
    assert crashing.run(short, tmp_path / "run") == 0
    first = (tmp_path / "run" / "result.json").read_text()
    points = [1, 50]
    assert crashing.run(long, tmp_path / "run", resume=True, copy_at=points) == 0
    assert_equal(outcome(tmp_path / "run"), expected)
    assert (tmp_path / "run" / "earlier.json").read_text() == first
    assert [state_of(tmp_path / "run", config) for config in (short, long)] == ["other", "done"]
    for point in points:
        run_dir = crashing.copy_of(tmp_path / "run", point)
        kept = [run_dir / name for name in ("result.json", "earlier.json") if (run_dir / name).exists()]
        assert [path.read_text() for path in kept] == [first]
        if kept[0].name == "earlier.json":  # so a sweep goes on with it, and no report takes it for the shorter one
            assert [state_of(run_dir, config) for config in (short, long)] == ["other", "go on"]
        assert crashing.run(long, run_dir, resume=True) == 0
        assert_equal(outcome(run_dir), expected, f"killed at {point}: ")
