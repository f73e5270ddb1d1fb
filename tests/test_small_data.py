"""A small, uneven folder from the command to the report: what a person reads there, and that it is right."""

import csv
import re
import runpy
from collections import Counter
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from commands import start
from stagetune.report.result import read_result

ROOT = Path(__file__).parents[1]
SMALL = (
    "model=resnet18",
    "model.weights=random",
    "data.image_size=32",
    "precision=fp32",
    "trainer=cpu",
    *(f"schedule.stages.{stage}.epochs=1" for stage in range(3)),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run's directory and what it says on the screen."""
    folder = tmp_path_factory.mktemp("small")
    runpy.run_path(str(ROOT / "examples" / "small_parts.py"))["draw_all"](folder / "parts")
    words = ["+experiment=classifier_staged", "data=image_folder", f"data.root={folder / 'parts'}", *SMALL]
    command = start("train.py", *words, f"hydra.run.dir={folder / 'run'}", cwd=ROOT)
    screen, errors = command.communicate(120)
    assert command.returncode == 0, errors
    return folder / "run", screen


@pytest.mark.slow
def test_the_screen_says_what_the_numbers_are_to_be_held_against(run: tuple[Path, str]) -> None:
    folder, screen = run
    result = read_result(folder)
    said = result.classification
    assert "washer 40, bolt 15, nut 5; uneven: task.monitor=val/balanced_accuracy chooses by all classes" in screen
    always = next(one["images"] for one in said["classes"] if one["name"] == "washer") / said["images"]
    assert f'baseline  {always:.4f} by always answering "washer"' in screen
    value, low, high = (said["balanced_accuracy"][key] for key in ("value", "low", "high"))
    assert f"balanced {value:.4f} ({low:.3f} to {high:.3f}); 95% over 12 images" in screen
    assert low < value < high or value in (0, 1)
    assert re.search(r"classes   \w+ \d+ of \d+ right, ", screen)
    assert "trust     expected calibration error " in screen
    assert f'"unknown" below {said["unknown"]["below"]:.2g}: ' in screen
    for mistake in said["mistakes"][:3]:
        assert f"{mistake['image']}: is {mistake['label']}, answered {mistake['answer']} (" in screen


@pytest.mark.slow
def test_every_answer_is_kept_and_the_numbers_follow_from_them(run: tuple[Path, str]) -> None:
    folder, _ = run
    result = read_result(folder)
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "split", "group", "label", "answer", "probability"]
    assert Counter(row["split"] for row in rows) == {"test": 12, "val": 12}
    assert all(Path(row["path"]).parent.name == row["label"] for row in rows)
    assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)
    tested = [row for row in rows if row["split"] == "test"]
    labels, answers = ([row[key] for row in tested] for key in ("label", "answer"))
    right = np.mean([label == answer for label, answer in zip(labels, answers, strict=True)])
    assert result.test["test/accuracy"] == pytest.approx(right)
    assert result.classification["accuracy"]["value"] == pytest.approx(right)
    assert result.test["test/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, answers))
    validated = [row["label"] == row["answer"] for row in rows if row["split"] == "val"]
    assert result.best is not None
    assert result.best["value"] == pytest.approx(np.mean(validated))
    assert {path.name for path in (folder / "figures").iterdir()} >= {"reliability.png", "confusion.png"}


@pytest.mark.slow
def test_the_report_says_the_same_by_name(run: tuple[Path, str]) -> None:
    folder, _ = run
    command = start("-m", "stagetune", "report", str(folder), cwd=folder)
    screen, errors = command.communicate(60)
    assert command.returncode == 0, errors
    said = read_result(folder).classification
    page = (folder / "report.html").read_text()
    for text in (screen, page):
        assert 'always answering "washer" would have 0.6667' in unescape(text)
        assert f"the balanced accuracy {said['balanced_accuracy']['value']:.4f} (" in text
    assert "<h3>Classes</h3>" in page
    for mistake in said["mistakes"]:
        assert f"<td>{mistake['image']}</td>" in page
    assert ('alt="the worst mistakes" src="data:image/png;base64,' in page) == bool(said["mistakes"])
