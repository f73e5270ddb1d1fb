"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import start

ROOT = Path(__file__).parents[1]
STEP = re.compile(
    r"^`(?P<path>[^`\n]+)`, (?P<how>new|at the end|in place of|after|before)(?: `(?P<where>[^`\n]+)`)?:\n\n"
    r"```\w+\n(?P<text>.*?)```$",
    re.MULTILINE | re.DOTALL,
)


def follow(step: re.Match[str], root: Path) -> None:
    """Change a file as a step says; where the place is not there, or there twice, the recipe is wrong."""
    path, how, where, text = root / step["path"], step["how"], step["where"], step["text"]
    if how == "new":
        assert not path.exists(), path
        path.write_text(text)
        return
    before = path.read_text()
    if how == "at the end":
        path.write_text(before + text)
        return
    assert before.count(where) == 1, f"{path}: {where}"
    changed = {"in place of": text.rstrip("\n"), "after": f"{where}\n{text.rstrip()}", "before": f"{text}{where}"}[
        how
    ]
    path.write_text(before.replace(where, changed))


def sections() -> dict[str, str]:
    """The text below each heading of a recipe."""
    parts = re.split(r"^## (.+)$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def touched_in(text: str) -> int:
    """How many files of the project a recipe touches."""
    return len({step["path"] for step in STEP.finditer(text)})


@pytest.mark.slow
def test_the_recipes_are_right(tmp_path: Path) -> None:
    for name in ("src", "conf", "tests", "pyproject.toml", "train.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    steps = list(STEP.finditer((ROOT / "CONTRIBUTING.md").read_text()))
    touched = sorted({step["path"] for step in steps})
    counts = {name: touched_in(text) for name, text in sections().items()}
    assert counts == {
        "A schedule": 2, "A loss": 3, "A source of images": 3, "A wrapper": 3, "A backbone": 1,
        "Parts of your own": 0,
    }  # fmt: skip
    assert len(touched) == 11
    for step in steps:
        follow(step, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    names = "head_then_top or logistic or stripes or thinned or resnet50_small or every_preset or every_key or lists"
    files = [f"tests/test_{name}.py" for name in ("presets", "losses", "data", "models", "config")]
    tested = run("-m", "pytest", "-p", "no:cacheprovider", "-k", names, *files)
    assert re.search(r"^\d\d passed", tested, re.MULTILINE), tested
    run(
        "train.py", "task=siamese", "data=stripes", "loss=logistic", "schedule=head_then_top",
        "model=resnet50_small", "data.thinned=8", "model.weights=random", "data.image_size=16", "precision=fp32",
        "trainer=cpu",
        "+trainer.limit_train_batches=1", "schedule.stages.0.epochs=1",
        "schedule.stages.1.epochs=1",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert '"status": "completed"' in (tmp_path / "run" / "result.json").read_text()


@pytest.mark.slow
def test_parts_of_ones_own_go_in_as_it_says(tmp_path: Path) -> None:
    """The file and the command below `Parts of your own`, at a small size."""
    text = sections()["Parts of your own"]
    code = re.search(r"^`my_parts.py`, of your own:\n\n```python\n(.*?)```$", text, re.MULTILINE | re.DOTALL)
    command = re.search(r"^```\npython (train.py .*?)```$", text, re.MULTILINE | re.DOTALL)
    assert code
    assert command
    (tmp_path / "my_parts.py").write_text(code[1])
    small = [
        "model=resnet18", "model.weights=random", "data.image_size=16", "precision=fp32",
        "trainer=cpu",
        "+trainer.limit_train_batches=2", "schedule=lp_ft", "schedule.stages.0.epochs=1",
        "schedule.stages.1.epochs=1",
        "hydra.run.dir=run",
    ]  # fmt: skip
    words = [str(ROOT / "train.py"), *command[1].replace("\\\n", " ").split()[1:], *small]
    process = start(*words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert "diary     probe begins\n" in out
    assert "diary     finetune begins\n" in out
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["best"]["metric"] == "val/wrong"
    assert result["best"]["mode"] == "min"
    assert 0 <= result["test"]["test/wrong"] <= 1
    for row in re.findall(r"\| `([^`]+)`", text):
        assert all(word in words for word in row.split()) or "my_parts.My" in row, row  # of those the class is yours
