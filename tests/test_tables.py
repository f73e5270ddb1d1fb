"""Tables of images and of pairs: what they give, and their mistakes by line."""

import csv
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

import networks
from stagetune.config.schema import Config
from stagetune.data.datamodule import Batch
from stagetune.data.samplers import pair_batches
from stagetune.data.source import Pairs
from stagetune.data.sources.identity_csv import Columns, identity_csv
from stagetune.data.sources.image_folder import image_folder
from stagetune.data.sources.pairs import pairs_csv
from stagetune.data.splits import Split, check_explicit_pairs
from stagetune.errors import DataError
from stagetune.losses import contrastive
from stagetune.models.own import own_backbone
from stagetune.report.result import read_result
from stagetune.run import run_experiment
from stagetune.run.data import build_data
from stagetune.tasks.siamese import SiameseTask, given_pairs

pytestmark = pytest.mark.usefixtures("_no_pictures")


def table(folder: Path, text: str) -> Path:
    (folder / "table.csv").write_text(text)
    return folder / "table.csv"


def names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.png"))]


def test_a_table_gives_identities_splits_and_groups(folder: Path) -> None:
    rows = [f"{name},{name.split('/')[0]},train,warm" for name in names(folder)]
    source = identity_csv(table(folder, "path, identity, split, group\n" + "\n".join(rows)))
    assert source.classes == ["blue", "green", "red"]
    assert source.groups == ["warm"] * 3
    assert source.split == ["train"] * 30
    assert np.bincount(source.labels).tolist() == [10, 10, 10]


def test_nested_folders_are_groups_and_identities(folder: Path) -> None:
    (folder / "x").mkdir()
    for color in ("red", "green"):
        (folder / color).rename(folder / "x" / color)
    (folder / "y").mkdir()
    (folder / "blue").rename(folder / "y" / "red")
    source = image_folder(folder, depth="2")
    assert source.classes == ["x/green", "x/red", "y/red"]  # characters of one name in two alphabets are two
    assert source.groups == ["x", "x", "y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column path and no column identity; the file is empty"),
        ("path,label\nred/0.png,red\n", "has no column identity; "),
        ("path,identity\n", "has a header but no lines"),
        (
            "path,identity,group\nred/0.png,red, dark,x\n",
            "1 lines are wrong: line 2: has 4 cells for 3 columns; quote what has a comma",
        ),
        ("path,identity,group,group\nred/0.png,red,x,y\n", "has 2 columns group; leave one of them"),
        (
            "path,identity\nred/0.png,red\nred/99.png,red\nred/0.png,blue\nred/1.png,\nred/0.png,red\n",
            "4 lines are wrong: line 3: red/99.png does not exist in {folder}; line 4: red/0.png of line 2 is red "
            "there and blue here; line 5: identity is empty; line 6: red/0.png of line 2 is there already",
        ),
        (
            "path,identity,split\nred/0.png,red,train\nred/1.png,red,\nred/2.png,red,later\n",
            "2 lines are wrong: line 3: split is empty; give train, val or test to every image, or to none; "
            "line 4: split is later; give train, val or test to every image, or to none",
        ),
    ],
    ids=["empty", "column", "header only", "cells", "columns", "lines", "split"],
)
def test_what_is_wrong_in_a_table_of_images_is_said_once_by_line(text: str, message: str, folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        identity_csv(table(folder, text))
    assert str(caught.value).startswith(f"{folder / 'table.csv'}: {message.format(folder=folder)}")


def test_a_table_of_another_encoding_is_refused_by_its_first_line_too(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes("päth,identity\na.png,x\n".encode("latin-1"))
    with pytest.raises(
        DataError, match=r"line 1 is not utf-8: its byte 0xe4 cannot be read; say how it is written, data"
    ):
        identity_csv(tmp_path / "table.csv")


def test_a_column_that_is_called_so_and_means_something_else_is_not_read(folder: Path) -> None:
    rows = [f"{name},{name.split('/')[0]},{i % 5}" for i, name in enumerate(names(folder))]
    file = table(folder, "path,group,split\n" + "\n".join(rows))
    source = identity_csv(file, columns=Columns(identity="group", split=None, group=None))
    assert (source.classes, source.split, source.image_groups) == (["blue", "green", "red"], None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,same\nred/0.png,red/1.png,1\n", "has no column is_same; "),
        (
            "a,b,is_same\nred/0.png,red/1.png,yes\nred/0.png,red/0.png,1\nred/0.png,gone.png,1\n",
            "3 lines are wrong: line 2: is_same is yes; give 1 (same identity) or 0; "
            "line 3: red/0.png is paired with itself; line 4: gone.png does not exist in {folder}",
        ),
        (
            "a,b,is_same\nred/0.png,red/1.png,1\nred/1.png,red/0.png,0\nred/0.png,red/1.png,1\n",
            "2 lines are wrong: line 3: contradicts line 2 (red/1.png, red/0.png); "
            "line 4: repeats line 2 (red/0.png, red/1.png)",
        ),
        (
            "a,b,is_same\nred/0.png,red/1.png,1\nred/1.png,red/2.png,1\nred/0.png,red/2.png,0\n",
            "1 lines are wrong: line 4: red/0.png and red/2.png are different here, but other lines join them as one "
            "identity",
        ),
        (
            "a,b,is_same,split\nred/0.png,red/1.png,1,train\nred/0.png,blue/1.png,0,test\n",
            "1 lines are wrong: line 3: red/0.png is in test here and in train in line 2",
        ),
    ],
    ids=["column", "lines", "twice", "through others", "split"],
)
def test_what_is_wrong_in_a_table_of_pairs_is_said_once_by_line(text: str, message: str, folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        pairs_csv(table(folder, text))
    assert str(caught.value).startswith(f"{folder / 'table.csv'}: {message.format(folder=folder)}")


def pairs_table() -> str:
    """Of each colour two identities of five images: each image with the next one, and with one of the other five."""
    lines = []
    for color, split in (("red", "train"), ("blue", "val"), ("green", "test")):
        for i in range(10):
            if i % 5 < 4:
                lines.append(f"{color}/{i}.png,{color}/{i + 1}.png,1,{split},{i % 3}")
            if i < 5:
                lines.append(f"{color}/{i}.png,{color}/{i + 5}.png,0,{split},{i % 3}")
    return "a,b,is_same,split,fold\n" + "\n".join(lines) + "\n"


def test_images_that_same_pairs_join_are_one_identity(folder: Path) -> None:
    source, pairs = pairs_csv(table(folder, pairs_table()))
    assert len(source) == 30
    assert len(source.classes) == 6
    assert (source.labels[pairs.first] == source.labels[pairs.second]).tolist() == pairs.is_same.astype(bool).tolist()


def test_one_image_by_two_ways_of_writing_its_path_is_one(folder: Path) -> None:
    red = names(folder / "red")
    lines = [f"red/{red[0]},red/{red[1]},1", f"./red/{red[1]},red/../red/{red[2]},1"]
    source, _ = pairs_csv(table(folder, "a,b,is_same\n" + "\n".join(lines)))
    assert (len(source), len(source.classes)) == (3, 1)


@given(st.integers(2, 40), st.integers(2, 12), st.integers(1, 3), st.integers(0, 3))
def test_each_pair_comes_once_in_some_batch_of_the_size_with_both_kinds_mixed(
    count: int, batch_size: int, processes: int, epoch: int
) -> None:
    rng = np.random.default_rng(count)
    first, second = np.arange(count), np.arange(count) + count
    is_same = rng.integers(0, 2, count)
    arguments = (first, second, is_same, batch_size)
    parts = [
        pair_batches(*arguments, seed=0, epoch=epoch, rank=rank, world_size=processes) for rank in range(processes)
    ]
    whole = [list(chain(*batches)) for batches in zip(*parts, strict=True)]
    for i in range(count):
        assert sum({i, i + count} <= set(batch) for batch in whole) == 1
    assert all(len(batch) <= (batch_size + 2) * processes for batch in whole)
    assert all(len(set(batch)) == len(batch) for batch in whole)


def test_given_pairs_are_found_by_the_images_of_a_batch() -> None:
    pairs = torch.tensor([[0, 3, 7], [3, 9, 8], [1, 0, 1], [4, 5, 6]])
    found = [part.tolist() for part in given_pairs(pairs, torch.tensor([9, 3, 0, 8, 50]))]
    assert found == [[2, 1], [1, 0], [1, 0], [4, 5]]


def test_a_step_learns_from_given_pairs_and_from_no_other() -> None:
    """Whatever identities the batch has: only what the table says of two of its images counts."""
    torch.manual_seed(0)
    pairs = Pairs(np.array([0, 3]), np.array([1, 2]), np.array([1, 0]), np.array([-1, -1]))
    backbone = own_backbone(networks.Net(), ["stem", "layer2", "layer3", "layer4"], 32)
    make = partial(SGD, lr=0.1)
    task = SiameseTask(
        backbone, nn.Linear(8, 4), contrastive.Settings(margin=2.0).build(10, 4), make_optimizer=make, pairs=pairs
    )
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    task.eval()
    cost = task.training_step(Batch(torch.tensor([4, 3, 2, 1, 0]), images, 0, torch.zeros(5).long()), 0)
    embeddings = task(images)
    same, different = (embeddings[4] - embeddings[3]).norm(), (embeddings[1] - embeddings[2]).norm()
    torch.testing.assert_close(cost, 0.5 * (same.square() + (2 - different).clamp_min(0).square()))


@pytest.mark.parametrize("batches", ["identities", "by_group", "uniform"])
def test_batches_are_drawn_as_the_task_says(batches: str, folder: Path, tiny: Callable[..., Config]) -> None:
    for group, color in (("x", "red"), ("x", "green"), ("y", "blue")):
        (folder / group).mkdir(exist_ok=True)
        (folder / color).rename(folder / group / color)
    (folder / "y" / "white").mkdir()
    for i in range(5):
        (folder / "y" / "blue" / f"{i}.png").rename(folder / "y" / "white" / f"{i}.png")
    config = tiny(
        "+experiment=siamese_staged", "data=image_folder", f"data.root={folder}", "data.depth=2",
        "data.batch_size=4", f"task.batches={batches}",
    )  # fmt: skip
    if batches != "uniform":
        config.task = replace(config.task, images_per_identity=2)
    data = build_data(config)
    labels = data.source.labels[data.split.train]
    groups = [{data.source.classes[i][0] for i in labels[batch]} for batch in data.train_batches(0)]
    assert all(len(group) == 1 for group in groups) == (batches == "by_group")
    assert (data.shape is None) == (batches == "uniform")


@pytest.mark.slow
def test_a_run_learns_from_given_pairs_alone(folder: Path, tiny: Callable[..., Config], tmp_path: Path) -> None:
    path = table(folder, pairs_table())
    config = tiny(
        "+experiment=siamese_staged", "data=pairs", f"data.pairs={path}", "data.batch_size=8", "data.num_workers=0",
        stages=2,
    )  # fmt: skip
    run_experiment(config, tmp_path / "run")
    result = read_result(tmp_path / "run")
    assert result.verification["pairs"] == {"same": 8, "different": 5}
    assert "retrieval" not in result.verification
    with (tmp_path / "run" / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert Counter(row["label"] for row in rows) == {"same": 8, "different": 5}
    recalls = [
        np.mean([row["answer"] == kind for row in rows if row["label"] == kind]) for kind in ("same", "different")
    ]
    assert result.test["test/accuracy"] == pytest.approx(np.mean(recalls))
    assert all(row["path"] != row["other"] and 0 <= float(row["probability"]) <= 1 for row in rows)
    with np.load(tmp_path / "run" / "embeddings.npz", allow_pickle=False) as stored:
        assert {row[key] for row in rows for key in ("path", "other")} <= set(stored["path"].tolist())
        assert set(stored["answer"].tolist()) == {""}
    assert result.verification["folds"]["folds"] == 3
    assert 2 <= result.stages[0]["steps"] <= 4  # 13 pairs of ten images, up to eight in a batch


def test_batches_by_group_need_identities_that_lie_in_groups(folder: Path, tiny: Callable[..., Config]) -> None:
    words = ["task=siamese", "loss=triplet", "data=image_folder", f"data.root={folder}", "task.batches=by_group"]
    with pytest.raises(DataError, match=r"by_group: image_folder has no groups; use task.batches=identities"):
        build_data(tiny(*words))
    with pytest.raises(DataError, match=r"by_group: image_folder has identities of images in several groups; use"):
        build_data(tiny(*words, r"data.group_pattern=\d+"))


def test_pairs_across_two_parts_are_left_out_and_a_part_without_both_kinds_is_refused() -> None:
    split = Split(np.arange(4), np.arange(4, 8), np.arange(8, 12))
    first = np.array([0, 2, 4, 6, 8, 10, 1])
    second = np.array([1, 3, 5, 7, 9, 11, 11])
    is_same = np.array([1, 0, 1, 0, 1, 0, 0])
    assert check_explicit_pairs(split, Pairs(first, second, is_same, 0 * is_same)) == 1
    with pytest.raises(DataError, match="the test split has 2 same and 0 different pairs, but needs both"):
        check_explicit_pairs(split, Pairs(first, second, np.array([1, 0, 1, 0, 1, 1, 0]), 0 * is_same))
