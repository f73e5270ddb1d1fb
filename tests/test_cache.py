"""The feature cache: the same numbers, from a prefix that is computed once."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.optim import SGD

from stagetune.cache.features import Features, outputs, rows_of_rank
from stagetune.cache.key import images_key, prefix_key, weights_key
from stagetune.cache.store import Store, forget
from stagetune.cache.tables import Tables
from stagetune.cli import main
from stagetune.config.schema import CacheConfig, Config
from stagetune.models.backbones import own, resnet
from stagetune.report.result import read_result
from stagetune.run import run_experiment
from stagetune.run.data import build_data
from stagetune.tasks.staged_task import StagedTask

TASKS = ("+experiment=classifier_staged", "+experiment=siamese_staged")
pytestmark = pytest.mark.usefixtures("_no_pictures")


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("STAGETUNE_CACHE", str(tmp_path / "cache"))
    forget()
    yield
    forget()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each pass over a frozen prefix: images, and the depth reached."""
    seen: list[tuple[int, int]] = []
    honest = Tables._make

    def counted(self: Tables, part: str, depth: int, wanted: dict[int, Any], *start: Any) -> None:
        seen.extend((len(self.data.parts[part]), depth) for depth in wanted)
        honest(self, part, depth, wanted, *start)

    monkeypatch.setattr(Tables, "_make", counted)
    return seen


def store(folder: Path, **budgets: float) -> Store:
    said: list[str] = []
    made = Store(folder, **{"memory_gb": 1.0, "disk_gb": 1.0, **budgets}, say=said.append)  # type: ignore[arg-type]
    made.lines = said  # type: ignore[attr-defined]
    return made


def weights(run_dir: Path, name: str = "last") -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
@pytest.mark.usefixtures("_no_probe")
@pytest.mark.parametrize(  # every two of the three with each other
    ("task", "views", "stages"),
    [
        (TASKS[0], 0, 2), (TASKS[0], 2, 1), (TASKS[0], 2, 3),
        (TASKS[1], 0, 1), (TASKS[1], 0, 3), (TASKS[1], 2, 2),
    ],
)  # fmt: skip
def test_a_run_has_the_same_numbers_with_and_without_the_cache(
    task: str, views: int, stages: int, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """After each stage the weights agree to 1e-6, and so do all metrics; views are drawn once and repeat."""
    config = tiny(task, f"data.augment={'affine' if views else 'none'}", "data.batch_size=32", stages=stages)
    results = {}
    for name in ("off", "auto"):
        cache = CacheConfig(features=name, images=name, views=views)
        results[name] = run_experiment(replace(config, cache=cache), tmp_path / name)
    assert [stage["cached_depth"] for stage in results["auto"].stages] == [5, 4, 0][:stages]
    assert [stage["cached_depth"] for stage in results["off"].stages] == [0, 0, 0][:stages]
    expected = weights(tmp_path / "off")
    for name, value in weights(tmp_path / "auto").items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)
    assert results["auto"].best is not None
    assert results["off"].best is not None
    assert results["auto"].best["value"] == pytest.approx(results["off"].best["value"], abs=1e-5)
    assert results["auto"].test == pytest.approx(results["off"].test, abs=1e-5)


@pytest.mark.slow
def test_a_second_run_with_the_same_prefix_computes_it_zero_times(
    calls: list[tuple[int, int]], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """And a later stage finds its table ready: it was made in the pass of the first."""
    config = tiny(TASKS[0], "data.augment=none", stages=2)
    first = run_experiment(config, tmp_path / "first")
    # of 359 there are two parts, and the probe wants the features of both
    assert sorted(calls) == [(359, 4), (359, 4), (359, 5), (359, 5), (1079, 4), (1079, 5)]
    calls.clear()
    forget()  # as another process would have to
    second = run_experiment(replace(config, accumulation=2), tmp_path / "second")
    assert calls == []
    assert first.stages[0]["cache"]["train"]["used"]
    assert second.stages[1]["cached_depth"] == 4


@pytest.mark.slow
def test_a_lost_table_is_computed_from_the_shallower_one(
    calls: list[tuple[int, int]], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """Over several batches, all of which come from the table that is there."""
    config = tiny(TASKS[0], "data.augment=none", stages=2)
    first = run_experiment(config, tmp_path / "first")
    for head in (tmp_path / "cache" / "tables").glob("*.json"):
        if len(json.loads(head.read_text())["shape"]) == 2:  # features
            head.with_suffix(".bin").unlink()
    calls.clear()
    forget()
    second = run_experiment(config, tmp_path / "second")
    assert sorted(calls) == [(359, 5), (359, 5), (1079, 5)]
    assert second.test == pytest.approx(first.test, abs=1e-4)


@pytest.mark.slow
def test_a_training_that_draws_new_augmentations_caches_validation_alone(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    result = run_experiment(tiny(TASKS[0], "data.augment=affine", stages=1), tmp_path / "run")
    assert result.stages[0]["cache"].keys() == {"val"}
    assert result.stages[0]["cached_depth"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("_no_probe")
def test_a_budget_of_nearly_nothing_changes_no_number(
    tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(TASKS[0], "data.augment=none", stages=1)
    run_experiment(config, tmp_path / "whole")
    expected = weights(tmp_path / "whole")
    little = 1e-7
    for name, budgets, is_kept in (
        ("in a file alone", {"memory_gb": little}, True),
        ("in memory alone", {"disk_gb": little}, True),
        ("nowhere", {"memory_gb": little, "disk_gb": little}, False),
    ):
        forget()
        capsys.readouterr()
        result = run_experiment(replace(config, cache=CacheConfig(**budgets)), tmp_path / name)
        for layer, value in weights(tmp_path / name).items():
            torch.testing.assert_close(value, expected[layer], rtol=0, atol=1e-6, msg=f"{name}: {layer}")
        assert result.stages[0]["cached_depth"] == (5 if is_kept else 0), name
        assert ("over the cache's budget; computing instead" in capsys.readouterr().out) != is_kept, name


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_line_and_costs_nothing_else(
    tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "_publish", full)
    result = run_experiment(tiny(TASKS[0], "data.augment=none", stages=1), tmp_path / "run")
    assert result.stages[0]["cached_depth"] == 5
    assert capsys.readouterr().out.count("cannot be written to (No space left on device); going on without") == 1


def test_a_file_that_fails_as_it_is_given_its_name_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = store(tmp_path), []
    monkeypatch.setattr(made, "_tell", said.append)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    made.put("key", torch.arange(1000))
    assert said == [f"{made.folder} cannot be written to (No space left on device); going on without a cache file"]
    assert os.listdir(made.folder) == []


@pytest.mark.slow
def test_a_disk_too_full_for_a_table_larger_than_memory_means_computing(
    tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    config = replace(tiny(TASKS[0], "data.augment=none", stages=1), cache=CacheConfig(memory_gb=1e-7))
    result = run_experiment(config, tmp_path / "run")
    assert result.stages[0]["cached_depth"] == 0
    assert not result.stages[0]["cache"]["train"]["used"]
    assert capsys.readouterr().out.count("cannot be written to (No space left on device); going on without") == 1
    assert list((tmp_path / "cache" / "tables").glob("*.tmp")) == []


def _begin_a_table(folder: Path) -> None:
    assert Store(folder, memory_gb=0, disk_gb=1, say=print).new("key", [1000], torch.uint8) is not None
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_is_writing_stays(tmp_path: Path) -> None:
    living = store(tmp_path, memory_gb=0)
    table = living.new("mine", [1000], torch.uint8)
    assert table is not None
    killed = multiprocessing.get_context("fork").Process(target=_begin_a_table, args=(tmp_path,))
    killed.start()
    killed.join()
    assert len(list(tmp_path.glob("*.tmp"))) == 2
    store(tmp_path).put("other", torch.zeros(10))
    assert len(list(tmp_path.glob("*.tmp"))) == 1
    table.fill_(7)
    living.put("mine", table)
    found = store(tmp_path).get("mine")
    assert found is not None
    assert found.eq(7).all()
    assert list(tmp_path.glob("*.tmp")) == []


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 5))
def test_processes_share_a_pass_and_together_compute_each_row_once(total: int, batch: int, processes: int) -> None:
    parts = [list(rows_of_rank(total, batch, rank, processes)) for rank in range(processes)]
    seen: list[int] = []
    for chunks in zip(*parts, strict=True):
        assert len({len(own) for _, own in chunks}) == 1  # as gathering wants it
        assert all(0 < len(own) <= batch for _, own in chunks)
        gathered = [row for _, own in chunks for row in own]
        assert gathered[: len(chunks[0][0])] == list(chunks[0][0])
        seen += chunks[0][0]
    assert seen == list(range(total))


@pytest.mark.slow
@pytest.mark.usefixtures("_no_probe")
def test_rounded_features_take_half_the_space_and_nearly_give_the_same_numbers(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    sizes, tests = [], []
    for dtype in ("auto", "bf16"):
        config = replace(tiny(TASKS[0], "data.augment=none", stages=1), cache=CacheConfig(dtype=dtype, images="off"))
        tests.append(run_experiment(config, tmp_path / dtype).test)
        files = store(tmp_path / "cache" / "tables").files()
        sizes.append(sum(size for _, size, _ in files))
        main(["cache", "clear"])
        forget()
    assert sizes[1] == sizes[0] / 2
    assert tests[0] == pytest.approx(tests[1], abs=0.02)


def test_a_key_changes_with_every_byte_that_decides_the_numbers() -> None:
    torch.manual_seed(0)
    backbone = resnet.Settings(arch="resnet18").build(64)

    def key_of(contents: list[str], size: int, prefix: list[nn.Module], how: str) -> str:
        return prefix_key(images_key(contents, size), weights_key(prefix), how=how)

    first = [backbone.conv1, backbone.bn1, backbone.maxpool]
    key = key_of(["a", "b"], 64, first, how="none")
    assert key == key_of(["a", "b"], 64, first, how="none")
    others = [
        key_of(["a", "c"], 64, first, how="none"),
        key_of(["b", "a"], 64, first, how="none"),
        key_of(["ab"], 64, first, how="none"),
        key_of(["a", "b"], 65, first, how="none"),
        key_of(["a", "b"], 64, first, how="affine"),
        key_of(["a", "b"], 64, first[:2], how="none"),
        key_of(["a", "b"], 64, [backbone.conv1, backbone.bn1, nn.MaxPool2d(2)], how="none"),
    ]
    for tensor in (backbone.conv1.weight, backbone.bn1.running_var, backbone.bn1.bias):
        with torch.no_grad():
            kept = tensor.clone()
            tensor[(-1,) * tensor.ndim] += 1e-6
            others.append(key_of(["a", "b"], 64, first, how="none"))
            tensor.copy_(kept)
    assert key == key_of(["a", "b"], 64, first, how="none")
    wider = resnet.Settings(arch="resnet18", pooled=["layer3", "layer4"]).build(64)
    wider.load_state_dict(backbone.state_dict())
    others += [key_of(["a", "b"], 64, [whole], how="none") for whole in (backbone, wider)]
    assert len({key, *others}) == 1 + len(others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_a_table_comes_back_from_its_file_as_it_was(dtype: torch.dtype, tmp_path: Path) -> None:
    table = torch.randint(0, 255, (5, 3, 2)).to(dtype)
    for memory in (1.0, 0.0):  # read into memory, or mapped
        made = store(tmp_path, memory_gb=memory)
        made.put("key", table)
        forget()
        found = made.get("key")
        assert found is not None
        assert torch.equal(found, table)
        assert found.dtype == dtype


@pytest.mark.slow
def test_a_file_torn_or_changed_at_any_byte_is_noticed_and_computed_anew(tmp_path: Path) -> None:
    table = torch.arange(24, dtype=torch.float32).view(2, 3, 4)
    whole = store(tmp_path)
    for suffix in (".bin", ".json"):
        whole.put("key", table)
        size = (tmp_path / "key").with_suffix(suffix).stat().st_size
        for position in range(size):
            for tear in (True, False):
                forget()
                whole.put("key", table)
                path = (tmp_path / "key").with_suffix(suffix)
                content = bytearray(path.read_bytes())
                if tear:
                    content = content[:position]
                else:
                    content[position] ^= 1
                path.write_bytes(content)
                forget()
                found = store(tmp_path).get("key")
                assert found is None or torch.equal(found, table), (suffix, position, tear)
                assert suffix == ".json" or found is None


def test_the_least_recently_used_files_make_room(tmp_path: Path) -> None:
    made = store(tmp_path, disk_gb=2.5e-6, memory_gb=0)
    for i, key in enumerate(("a", "b", "c")):
        made.put(key, torch.full((1000,), i, dtype=torch.uint8))
        time.sleep(0.02)
        if key == "b":
            assert made.get("a") is not None
    assert sorted(key for key, _, _ in made.files()) == ["a", "c"]


def _race(folder: Path, counts: Any) -> None:
    made = Store(folder, memory_gb=1, disk_gb=1, say=print)
    with made.lock("key"):
        if made.get("key") is None:
            time.sleep(0.3)
            with counts.get_lock():
                counts.value += 1
            made.put("key", torch.arange(1000))
    assert torch.equal(made.get("key"), torch.arange(1000))  # type: ignore[arg-type]


def test_of_two_processes_that_want_one_table_one_makes_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    counts = context.Value("i", 0)
    racers = [context.Process(target=_race, args=(tmp_path, counts)) for _ in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(60)
    assert [racer.exitcode for racer in racers] == [0, 0, 0]
    assert counts.value == 1


@pytest.mark.slow
def test_views_come_in_turn_and_are_what_images_have_without_a_cache(tiny: Callable[..., Config]) -> None:
    config = replace(tiny(TASKS[0], "data.augment=affine"), cache=CacheConfig(views=2))
    data = build_data(config)
    images = data.parts["train"]
    keys = [data._keys("train", [(epoch, position) for position in (3, 0, 7)]) for epoch in range(4)]
    seen = [images[key].inputs for key in keys]
    for place in range(3):
        for first in (0, 2):
            assert not torch.equal(seen[first][place], seen[first + 1][place])
            assert any(torch.equal(seen[0][place], seen[first + i][place]) for i in range(2))
    backbone = resnet.Settings(arch="resnet18").build(64).eval()
    rows = [divmod(row, len(images)) for row in range(2 * len(images))]
    table = outputs(backbone, images[rows].inputs, [2, 5], precision=nullcontext)
    for depth, is_far in ((2, False), (5, True)):
        cpu = torch.device("cpu")
        serve = Features(table[depth], images, depth, torch.float32, device=cpu, is_far=is_far)
        for batch, key, inputs in zip(serve(keys), keys, seen, strict=True):
            with torch.inference_mode():
                expected = backbone(inputs, stop=depth)
            torch.testing.assert_close(batch.inputs, expected, rtol=1e-4, atol=1e-5)
            assert batch.index.tolist() == images.indices[[position for _, position in key]].tolist()
            assert depth == 5 or batch.inputs.is_contiguous(memory_format=torch.channels_last)


def test_the_command_lists_and_clears_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache" / "tables"
    store(folder).put("abc", torch.zeros(1000))
    main(["cache", "list"])
    assert capsys.readouterr().out.splitlines()[-1] == f"1 tables, 0.000 GB in {folder}"
    main(["cache", "clear"])
    assert capsys.readouterr().out.splitlines()[-1] == f"1 tables, 0.000 GB in {folder}, removed"
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_a_result_says_what_was_decided_with_both_figures(tiny: Callable[..., Config], tmp_path: Path) -> None:
    run_experiment(tiny(TASKS[0], "data.augment=none", stages=1), tmp_path / "run")
    (stage,) = read_result(tmp_path / "run").stages
    for part in ("train", "val"):
        decision = stage["cache"][part]
        assert decision["used"] == (decision["read_ms"] < decision["compute_ms"])
        assert decision["depth"] == 5
    assert read_result(tmp_path / "run").timing["cache_seconds"] > 0


@pytest.mark.slow
def test_a_network_that_changed_otherwise_than_in_its_weights_is_not_served_old_features(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    def run(name: str, gain: float, features: str = "auto") -> dict[str, Tensor]:
        forget()
        config = tiny(TASKS[0], "data.augment=none", stages=1)
        network = {"_target_": "networks.Net", "gain": gain}
        config.model = own.Settings("own", network=network, blocks=["stem", "layer2", "layer3", "layer4"])
        run_experiment(replace(config, cache=CacheConfig(features=features)), tmp_path / name)
        return weights(tmp_path / name)

    run("first", gain=1.0)
    expected = run("computed", gain=3.0, features="off")
    for name, value in run("second", gain=3.0).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=name)


class Bounded(nn.Module):
    """A network of one's own whose limit shows neither in its weights nor in its layers."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(4, 1, 1))
        self.low, self.high = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 6, 3, 2)
        self.bound = lambda maps: maps.clamp(max=limit)

    def forward(self, images: Tensor) -> Tensor:
        return self.high(self.bound(self.low(images) + self.shift))  # type: ignore[no-any-return]


def _tables(config: Config, folder: Path, *, limit: float = 6.0, **settings: Any) -> Tables:
    """The cache under a trainer whose model is that network, with one part of 12 images."""
    network = {"_target_": "test_cache.Bounded", "limit": limit}
    blocks = {"low": ["shift", "low"], "high": ["high"]}
    torch.manual_seed(0)
    backbone = own.Settings(network=network, blocks=blocks, **settings).build(32)
    task = StagedTask(backbone, nn.Linear(6, 10), nn.Identity(), make_optimizer=SGD)
    data = build_data(config)
    data.parts["val"].indices = data.parts["val"].indices[:12]
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder)
    trainer.strategy.connect(task)
    task.trainer = trainer
    return Tables(data, store(folder), config.cache, trainer)


@pytest.mark.slow
def test_all_that_decides_the_numbers_of_a_network_of_ones_own_tells_its_tables_apart(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    """As for the same network twice, with limit=6 and limit=1.5 as an argument of its constructor."""
    config = tiny(TASKS[0], "data.augment=none")
    first = _tables(config, tmp_path)
    assert first.backbone.starts == (0, 1, 2)
    keys = [
        [tables._key(tables.data.parts["val"], depth) for depth in (1, 2)]
        for tables in (
            first,
            _tables(config, tmp_path, limit=1.5),
            _tables(config, tmp_path, mean=[0.5, 0.5, 0.5]),
            _tables(config, tmp_path, std=[0.5, 0.5, 0.5]),
        )
    ]
    with torch.no_grad():
        first.backbone.shift += 1e-6  # a parameter that stands in a block by itself
    first._prefixes.clear()
    keys.append([first._key(first.data.parts["val"], depth) for depth in (1, 2)])
    assert len({key for pair in keys for key in pair}) == 2 * len(keys)
    again = _tables(config, tmp_path)
    assert [again._key(again.data.parts["val"], depth) for depth in (1, 2)] == keys[0]


@pytest.mark.slow
def test_the_runs_of_a_sweep_share_the_views_that_their_seeds_put_in_order(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    config = replace(tiny(TASKS[0], "data.augment=affine"), cache=CacheConfig(views=3))
    tables = _tables(config, tmp_path)
    other, unlike = (replace(config, data=replace(config.data, **one)) for one in ({"seed": 1}, {"resize": "pad"}))
    first, second, reseeded, padded = map(build_data, (config, replace(config, seed=1), other, unlike))
    train = [data.parts["train"] for data in (first, second)]
    assert torch.equal(*(images[[(2, 5), (0, 7)]].inputs for images in train))
    assert tables._key(train[0], 2) == tables._key(train[1], 2)
    visits = [(epoch, 5) for epoch in range(12)]
    assert first._keys("train", visits) != second._keys("train", visits)
    reseeded.parts["train"].indices = train[0].indices
    moved = build_data(config).parts["train"]
    moved.indices = moved.indices[::-1].copy()
    moved.source.contents = moved.source.contents[::-1]  # other places in the source
    keys = {tables._key(images, 2) for images in (*train, reseeded.parts["train"], padded.parts["train"], moved)}
    assert len(keys) == 4


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 6, 11])
def test_a_stored_table_is_compared_at_its_beginning_middle_and_end(
    place: int, calls: list[tuple[int, int]], tiny: Callable[..., Config], tmp_path: Path
) -> None:
    tables = _tables(tiny(TASKS[0], "data.augment=none"), tmp_path)
    made = tables.features("val", 1, [1])
    assert made is not None
    assert calls == [(12, 1)]
    whole = made.table.clone()
    made.table[place] += 1.0  # as a network would give that changed without a trace in the key
    found = tables.features("val", 1, [1])
    assert calls == [(12, 1), (12, 1)]
    assert found is not None
    torch.testing.assert_close(found.table, whole)
    tables.features("val", 1, [1])
    assert len(calls) == 2
