"""Omniglot's official one-shot runs: read, scored, by a checkpoint and by the baseline that needs none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.spatial.distance import directed_hausdorff

from stagetune.cli import main
from stagetune.config.schema import Config
from stagetune.errors import DataError
from stagetune.evaluation.oneshot_runs import errors, hausdorff, ink, mean_and_interval, read_runs
from stagetune.run import run_experiment

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


@pytest.mark.slow
def test_a_checkpoint_is_scored_from_the_command_line(
    runs: Path, tiny: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_experiment(tiny("+experiment=siamese_staged", stages=1), tmp_path / "trained")
    capsys.readouterr()
    main(["oneshot", str(tmp_path / "trained" / "checkpoints" / "best.ckpt"), str(runs)])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["run01", "run02", "2"]
    main(["oneshot", str(runs), "--baseline", "hausdorff"])
    assert capsys.readouterr().out.splitlines()[-1] == ("2 runs: 0.0% error (95% interval over runs: 0.0 to 0.0)")
    with pytest.raises(SystemExit):
        main(["oneshot", str(runs / "run01" / "class_labels.txt"), str(runs)])
    assert "is not a checkpoint of this project" in capsys.readouterr().err
