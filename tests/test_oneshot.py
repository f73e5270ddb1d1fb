"""Omniglot's official one-shot runs: read, scored, by a checkpoint and by the baseline that needs none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.spatial.distance import directed_hausdorff

from stagetune.cli import main
from stagetune.config.schema import Config
from stagetune.errors import DataError
from stagetune.evaluation.oneshot_runs import (
    drawer_runs,
    errors,
    hausdorff,
    ink,
    interval_over_drawers,
    mean_and_interval,
    on_white,
    read_runs,
)
from stagetune.inference.oneshot import VIEWS, _turned, distances_of
from stagetune.run import run_experiment

pytestmark = pytest.mark.usefixtures("_no_pictures")

SHAPES = [[(20, 20), (80, 80)], [(20, 80), (80, 20)], [(50, 15), (50, 90)], [(15, 50), (90, 50)],
          [(20, 20), (20, 80), (80, 80)], [(20, 20), (80, 20), (80, 80), (20, 80)]]  # fmt: skip


def draw(shape: int, path: Path, *, shift: int = 0, mode: str = "1", paper: int = 255) -> None:
    image = Image.new("L", (105, 105), paper)
    points = [(x + shift, y + shift) for x, y in SHAPES[shape]]
    ImageDraw.Draw(image).line(points, fill=255 - paper, width=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert(mode).save(path)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs: a class is a shape; test images are shifted, in another polarity and mode."""
    root = tmp_path / "runs"
    for run in ("run01", "run02"):
        lines = []
        for i in range(len(SHAPES)):
            shape = (i + 1) % len(SHAPES)
            draw(i, root / run / "training" / f"class{i + 1:02}.png")
            draw(shape, root / run / "test" / f"item{i + 1:02}.png", shift=6, mode="L", paper=0)
            lines.append(f"{run}/test/item{i + 1:02}.png {run}/training/class{shape + 1:02}.png")
        (root / run / "class_labels.txt").write_text("\n".join(lines) + "\n")
    return root


def test_the_baseline_is_blind_to_place_polarity_and_mode(runs: Path) -> None:
    found = read_runs(runs)
    assert [run.name for run in found] == ["run01", "run02"]
    assert found[0].truth.tolist() == [1, 2, 3, 4, 5, 0]
    assert errors(found, hausdorff) == {"run01": 0.0, "run02": 0.0}
    assert ink(found[0].training[0]).mean() < 0.1
    assert ink(found[0].test[0]).mean() < 0.1


def test_the_modified_distance_is_a_mean_where_hausdorffs_is_a_maximum(runs: Path) -> None:
    (run, _) = read_runs(runs)
    points = [np.argwhere(ink(path)) for path in (run.test[0], run.training[0])]
    a, b = (p - p.mean(axis=0) for p in points)
    apart = np.linalg.norm(a[:, None] - b[None, :], axis=2)
    expected = max(apart.min(axis=1).mean(), apart.min(axis=0).mean())
    (found,) = hausdorff(run.test[:1], run.training[:1]).ravel()
    assert found == pytest.approx(expected)
    assert found < max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])


def test_a_folder_that_is_none_is_refused_by_file_and_line(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no runs; expected run01/class_labels\.txt"):
        read_runs(tmp_path / "nowhere")
    labels = runs / "run02" / "class_labels.txt"
    labels.write_text(labels.read_text().replace("item03", "item33"))
    with pytest.raises(DataError, match=r"class_labels.txt: line 3: expected a test image .*item33.png\)"):
        read_runs(runs)
    (Image.new("1", (105, 105), 1)).save(runs / "run01" / "test" / "item01.png")
    with pytest.raises(DataError, match=r"item01\.png: is an empty sheet"):
        hausdorff([runs / "run01" / "test" / "item01.png"], [runs / "run01" / "training" / "class01.png"])


def test_the_mean_over_runs_has_an_interval() -> None:
    mean, low, high = mean_and_interval([0.1, 0.2, 0.3, 0.2])
    assert mean == pytest.approx(0.2)
    assert 0.1 <= low < mean < high <= 0.3


@pytest.fixture
def alphabet(tmp_path: Path) -> Path:
    """Six characters by three drawers, of whom the third leaves out one and draws another as its neighbour."""
    root = tmp_path / "alphabet"
    for i in range(len(SHAPES)):
        for drawer in (1, 2, 3):
            if (drawer, i) != (3, 5):
                drawn = 1 if (drawer, i) == (3, 0) else i
                draw(drawn, root / f"character0{i + 1}" / f"000{i + 1}_0{drawer}.png", shift=3 * drawer)
    return root


def test_every_ordered_pair_of_drawers_is_a_run(alphabet: Path) -> None:
    runs = drawer_runs(alphabet)
    assert [run.name for run in runs] == ["01 02", "01 03", "02 01", "02 03", "03 01", "03 02"]
    for run in runs:
        shows, asked = run.name.split(" ")
        assert {path.stem[-2:] for path in run.training} == {shows}
        assert {path.stem[-2:] for path in run.test} == {asked}
        names = [path.parent.name for path in run.test]
        assert [path.parent.name for path in run.training] == names
        assert len(set(names)) == (5 if "03" in run.name else 6)
    assert [run.test for run in drawer_runs(alphabet)] == [run.test for run in runs]
    assert {len(run.test) for run in drawer_runs(alphabet, ways=4)} == {4}
    found = errors(runs, hausdorff)
    assert found["01 02"] == found["02 01"] == 0.0
    assert found["01 03"] == pytest.approx(1 / 5)  # the one that looks like its neighbour
    mean, low, high = interval_over_drawers(found)
    assert mean == pytest.approx(np.mean(list(found.values())))
    assert low <= mean <= high
    with pytest.raises(DataError, match=r"holds neither runs .* nor the characters of an alphabet"):
        drawer_runs(alphabet / "character01")


def test_an_interval_over_drawers_is_wider_than_one_over_their_pairs() -> None:
    rng = np.random.default_rng(0)
    skill = rng.uniform(0, 0.4, 20)
    found = {f"{a:02} {b:02}": (skill[a] + skill[b]) / 2 for a in range(20) for b in range(20) if a != b}
    _, low, high = interval_over_drawers(found)
    _, narrow_low, narrow_high = mean_and_interval(list(found.values()))
    assert high - low > 2 * (narrow_high - narrow_low)


def test_a_view_moves_the_ink_and_leaves_the_paper(alphabet: Path) -> None:
    drawn = torch.from_numpy(on_white(alphabet / "character01" / "0001_01.png")).expand(1, 3, -1, -1)
    for view in VIEWS:
        seen = _turned(drawn, *view)
        assert seen.dtype == torch.uint8
        assert (seen[..., 0, :] == 255).all()
        assert seen.lt(128).sum() == pytest.approx(drawn.lt(128).sum().item(), rel=0.35)
    right = _turned(drawn, *VIEWS[1])
    assert torch.equal(right[..., 5:], drawn[..., :-5])


@pytest.mark.slow
def test_a_checkpoint_is_scored_from_the_command_line(
    runs: Path, alphabet: Path, tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = run_experiment(tiny("+experiment=siamese_staged", "data.centred=true", stages=1), tmp_path / "trained")
    assert any("ink's centre of mass is in the middle" in note for note in trained.data["notes"])
    capsys.readouterr()
    distances = distances_of(tmp_path / "trained" / "checkpoints" / "best.ckpt")
    draw(0, tmp_path / "here.png", shift=0)
    draw(0, tmp_path / "there.png", shift=9)
    np.testing.assert_allclose(distances([tmp_path / "here.png"], [tmp_path / "there.png"]), 0, atol=1e-6)
    main(["oneshot", str(tmp_path / "trained" / "checkpoints" / "best.ckpt"), str(runs)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run01", "run02", "2"]
    main(["oneshot", str(tmp_path / "trained" / "checkpoints" / "best.ckpt"), str(alphabet), "--views", "9"])
    assert capsys.readouterr().out.startswith("6 runs: ")
    main(["oneshot", str(runs), "--baseline", "hausdorff"])
    assert capsys.readouterr().out.splitlines()[-1] == ("2 runs: 0.0% error (95% interval over runs: 0.0 to 0.0)")
    with pytest.raises(SystemExit):
        main(["oneshot", str(runs / "run01" / "class_labels.txt"), str(runs)])
    assert "is not a checkpoint of this project" in capsys.readouterr().err
