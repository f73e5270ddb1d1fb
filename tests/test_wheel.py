"""The wheel in an environment of its own, away from the checkout: it plans, trains, compares, and is used."""

import json
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = (
    "model=resnet18", "model.weights=random", "data.image_size=16", "precision=fp32", "trainer=cpu",
    "schedule=head_only", "schedule.stages.0.epochs=1",
)  # fmt: skip

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """bin/ of a new environment in which the wheel and what it needs are installed, nothing else."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("stagetune-*.whl")
    venv.create(folder / "venv", with_pip=True)
    found = folder / "venv" / "bin"
    install = [str(found / "python"), *pip[1:], "install", "-c", str(ROOT / "constraints.txt"), str(wheel)]
    subprocess.run(install, check=True)
    return found


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody's folder, with settings of their own."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "conf" / "experiment").mkdir(parents=True)
    (folder / "conf" / "schedule").mkdir()
    (folder / "conf" / "train.yaml").write_text("seed: 77\n")  # of another Hydra application: ours is taken
    (folder / "conf" / "experiment" / "theirs.yaml").write_text(
        "# @package _global_\ndefaults: [{override /schedule: short}]\nname: theirs\n"
    )
    (folder / "conf" / "schedule" / "short.yaml").write_text(
        "name: short\nleave_frozen: true\nstages: [{name: head, open: [head], epochs: 1, lr: 1.0e-3}]\n"
    )
    return folder


def run(commands: Path, *words: str, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(commands / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_the_installed_package_with_its_settings(commands: Path, empty: Path) -> None:
    code = "import stagetune; from stagetune.shipped import CONF; print(stagetune.__file__, CONF)"
    package, conf = run(commands, "python", "-c", code, cwd=empty).split()
    assert Path(package).parent == Path(conf).parent
    assert str(commands.parent) in package
    shipped = {path.relative_to(conf) for path in Path(conf).rglob("*.yaml")}
    assert shipped == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}


def test_it_plans_and_lists_options_of_ones_own(commands: Path, empty: Path) -> None:
    assert "schedule short: 1 stages" in run(commands, "stagetune", "plan", "+experiment=theirs", cwd=empty)
    assert "experiment: classifier_staged, omniglot" in run(commands, "stagetune", "train", "--help", cwd=empty)
    assert "theirs" in run(commands, "stagetune", "train", "--help", cwd=empty)


def test_it_trains_compares_and_reports(commands: Path, empty: Path) -> None:
    """`-m` is two runs; the second command is Python, as a module."""
    tiny = [word for word in TINY if not word.startswith("schedule")]
    run(commands, "stagetune", "train", "-m", "+experiment=theirs", *tiny, "seed=0,1", cwd=empty)
    results = [json.loads(path.read_text()) for path in sorted(empty.rglob("result.json"))]
    assert [(result["status"], result["seed"], result["schedule"]) for result in results] == [
        ("completed", 0, "short"), ("completed", 1, "short"),
    ]  # fmt: skip
    assert results[0]["best"]["value"] != results[1]["best"]["value"]
    said = run(commands, "python", "-m", "stagetune", "report", cwd=empty)
    (page,) = empty.rglob("report.html")
    assert page.name in said
    assert "stagetune train +experiment=theirs" in page.read_text()  # there is no train.py
    assert "</html>" in page.read_text()


def test_its_model_is_loaded_in_a_program(commands: Path, empty: Path) -> None:
    code = (
        "import numpy, stagetune, pathlib\n"
        "model = stagetune.load(next(pathlib.Path('outputs').rglob('seed-0')))\n"
        "image = model.transform(black := numpy.zeros((20, 20, 3), numpy.uint8))\n"
        "print(*model(image[None]).shape, len(model.classes), model.predict(black)[0].label)"
    )
    assert re.fullmatch(r"1 10 10 \d\n", run(commands, "python", "-c", code, cwd=empty))
