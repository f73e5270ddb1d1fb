"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_the_recipes_are_right(tmp_path: Path) -> None:
    for name in ("src", "conf", "tests", "pyproject.toml", "train.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    steps = list(STEP.finditer((ROOT / "CONTRIBUTING.md").read_text()))
    touched = sorted({step["path"] for step in steps})
    assert len(steps) == 16
    assert len(touched) == 12
    for step in steps:
        follow(step, tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "src"), "OMP_NUM_THREADS": "1"}

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    names = "head_then_top or logistic or stripes or resnext101_32x8d or every_preset or every_key"
    files = [f"tests/test_{name}.py" for name in ("presets", "losses", "data", "models", "config")]
    tested = run("-m", "pytest", "-p", "no:cacheprovider", "-k", names, *files)
    assert re.search(r"^\d\d passed", tested, re.MULTILINE), tested
    run(
        "train.py", "task=siamese", "data=stripes", "loss=logistic", "schedule=head_then_top",
        "model=resnext101_32x8d", "model.weights=random", "data.image_size=16", "precision=fp32", "trainer=cpu",
        "+trainer.limit_train_batches=1", "schedule.stages.0.epochs=1", "schedule.stages.1.epochs=1",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert '"status": "completed"' in (tmp_path / "run" / "result.json").read_text()
