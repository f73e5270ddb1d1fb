"""Data sets that torchvision knows, read where it would have put them; written here by hand, since hubs are away."""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from stagetune.config.schema import Config
from stagetune.data.sources.lfw import lfw
from stagetune.data.sources.omniglot import omniglot
from stagetune.errors import DataError
from stagetune.report.result import read_result
from stagetune.run import run_experiment

pytestmark = pytest.mark.usefixtures("_no_pictures")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(crc32(str(path).encode())).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Three folds of two same and two different pairs, each of four people of its own with two pictures."""
    lines = ["3\t2"]
    for fold in range(3):
        a, b, c, d = (f"Person_{fold}{letter}" for letter in "abcd")
        lines += [f"{a}\t1\t2", f"{b}\t1\t2", f"{a}\t1\t{b}\t2", f"{c}\t1\t{d}\t1"]
        for name in (a, b, c, d):
            for number in (1, 2):
                picture(tmp_path / "lfw-py" / "lfw_funneled" / name / f"{name}_{number:04d}.jpg")
    (tmp_path / "lfw-py" / "pairs.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_the_pairs_of_lfw_are_those_that_torchvision_reads(faces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, pairs = lfw(faces)
    monkeypatch.setattr(datasets.LFWPairs, "_check_integrity", lambda self: True)  # the pictures are made up
    theirs = datasets.LFWPairs(str(faces), split="10fold", image_set="funneled")
    ours = [(source.describe(a), source.describe(b)) for a, b in zip(pairs.first, pairs.second, strict=True)]
    assert sorted(ours) == sorted((str(a), str(b)) for a, b in theirs.data)
    assert sorted(pairs.is_same.tolist()) == sorted(theirs.targets)
    assert pairs.fold.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (source.labels[pairs.first] == source.labels[pairs.second]).tolist() == pairs.is_same.astype(bool).tolist()
    assert source.split is not None
    assert {source.split[i] for i in pairs.first[8:]} == {"test"}


def test_what_is_wrong_in_lfw_is_said_by_line(faces: Path) -> None:
    listed = faces / "lfw-py" / "pairs.txt"
    whole = listed.read_text()
    listed.write_text(whole.replace("Person_0a\t1\t2", "Person_0a\t1\t9").replace("Person_1b\t1\t2", "Person_1b\t1"))
    with pytest.raises(DataError) as caught:
        lfw(faces)
    assert str(caught.value).startswith(f"{listed}: 2 lines are wrong: line 2: {faces}/lfw-py/lfw_funneled/Person_0a")
    assert "line 7: expected a name and two numbers, or a name and a number twice" in str(caught.value)
    listed.write_text(whole.replace("3\t2", "4\t2"))
    with pytest.raises(DataError, match="has 12 pairs; line 1 says 4 folds of 4"):
        lfw(faces)
    with pytest.raises(
        DataError, match=r"expected .*pairs.txt and one of lfw_funneled, lfw-deepfunneled, lfw beside"
    ):
        lfw(faces / "elsewhere")


@pytest.mark.slow
def test_lfw_is_learnt_from_and_tested_by_its_folds(faces: Path, tiny: Callable[..., Config], tmp_path: Path) -> None:
    settings = ("data=lfw", f"data.root={faces}", "data.batch_size=8", "data.num_workers=0")
    run_experiment(tiny("+experiment=siamese_staged", *settings, stages=1), tmp_path / "run")
    result = read_result(tmp_path / "run")
    assert result.verification["pairs"] == {"same": 2, "different": 2}
    assert "folds" not in result.verification  # the test is one fold


@pytest.mark.parametrize("where", ["omniglot-py", "."])
def test_omniglot_is_found_where_torchvision_and_its_zip_files_leave_it(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part, alphabet in (("images_background", "Greek"), ("images_evaluation", "ULOG")):
        for number in (1, 2):
            picture(tmp_path / where / part / alphabet / f"character0{number}" / f"000{number}_01.png")
    picture(tmp_path / where / "images_background_small1" / "Greek" / "character01" / "0001_01.png")
    source = omniglot(tmp_path)
    assert source.classes == [f"{a}/character0{n}" for a in ("Greek", "ULOG") for n in (1, 2)]
    assert source.groups == ["Greek", "Greek", "ULOG", "ULOG"]
    assert len(source) == 4  # small1 is a part of the background
    monkeypatch.setattr(datasets.Omniglot, "_check_integrity", lambda self: True)
    if where == "omniglot-py":
        theirs = datasets.Omniglot(str(tmp_path), background=True)
        assert [f"Greek/{name.split('/')[1]}" for name in sorted(theirs._characters)] == source.classes[:2]
    assert omniglot(tmp_path, alphabets=["ULOG"]).groups == ["ULOG", "ULOG"]
    with pytest.raises(DataError, match=r"data.groups: no alphabet named Grek; did you mean Greek\?"):
        omniglot(tmp_path, alphabets=["Grek"])
    with pytest.raises(DataError, match=r"holds none of images_background, .*, nor does its folder omniglot-py"):
        omniglot(tmp_path / "elsewhere")
