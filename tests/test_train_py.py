"""train.py as a person starts it."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from commands import start, start_cold
from conftest import TINY

ROOT = Path(__file__).parents[1]
TRAIN = str(ROOT / "train.py")
OWN_NET = (
    "+experiment=classifier_staged", "model=own", "model.network._target_=networks.Net",
    "model.blocks=[stem,layer2,layer3,layer4]", "data.image_size=32", "precision=fp32", "trainer.accelerator=cpu",
    "+trainer.limit_train_batches=3", "schedule=head_only",
)  # fmt: skip


@pytest.fixture
def _own_net(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"), prepend=os.pathsep)


def train(*arguments: str, cwd: Path) -> tuple[int | None, str, str]:
    """From a warm process; see `train_cold`."""
    process = start(TRAIN, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def train_cold(*arguments: str, cwd: Path) -> tuple[int, str, str]:
    """As a person starts it, with all that imports may print."""
    process = start_cold(TRAIN, *arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def test_a_typo_is_answered_in_a_few_lines_without_torch_or_traceback(tmp_path: Path) -> None:
    code, out, err = train_cold("+experiment=siamese_staged", "schedule=stagedd", "data.image_sizee=3", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err == (
        "stagetune: 2 problems in the configuration:\n"
        "  schedule=stagedd: no such schedule; did you mean staged?\n"
        "  data.image_sizee: no such key in data; did you mean data.image_size?\n"
    )
    assert list(tmp_path.iterdir()) == []
    probe = "import sys, runpy; sys.argv = ['train.py', 'seed=x']\ntry: runpy.run_path(r'%s', run_name='__main__')\n"
    probe += "except SystemExit: assert 'torch' not in sys.modules; print('clean')"
    found = subprocess.run(
        [sys.executable, "-c", probe % (ROOT / "train.py")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert found.stdout == "clean\n"


def test_a_wrong_value_leaves_no_empty_run_directory(tmp_path: Path) -> None:
    code, _, err = train_cold("seed=x", cwd=tmp_path)
    assert (code, err) == (1, "stagetune: 1 problem in the configuration:\n  seed: expects a whole number, got 'x'\n")
    assert [path for path in tmp_path.rglob("*") if not path.is_dir() or path.name.startswith("20")] == []


def test_the_traceback_is_there_for_who_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGETUNE_TRACEBACK", "1")
    _, _, err = train_cold("seed=x", cwd=tmp_path)
    assert "Traceback (most recent call last)" in err
    assert err.endswith("stagetune: 1 problem in the configuration:\n  seed: expects a whole number, got 'x'\n")


@pytest.mark.slow
def test_an_experiment_runs_quietly_and_ends_with_numbers_and_path(tmp_path: Path) -> None:
    code, out, err = train_cold("+experiment=siamese_staged", *TINY, cwd=tmp_path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) <= 30
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [
        "run", "data", "model", "training", "cache", "schedule", "probe", "stage", "stage", "stage", "best", "test",
        "pairs", "retrieval", "nearest", "baseline", "classes", "confused", "mistakes", "results", "next",
    ]  # fmt: skip
    (run_dir,) = (tmp_path / "outputs" / "siamese_staged").iterdir()
    assert lines[-2].split()[-1] == str(run_dir)
    assert lines[-1].split()[2:] == ["verify", str(run_dir), "A.jpg", "B.jpg"]
    result = json.loads((run_dir / "result.json").read_text())
    assert (result["status"], len(result["stages"])) == ("completed", 3)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_net")
def test_a_multirun_of_two_jobs_leaves_two_results(tmp_path: Path) -> None:
    code, _, err = train("-m", *OWN_NET, "schedule.stages.0.epochs=1", "seed=0,1", cwd=tmp_path)
    assert (code, err) == (0, "")
    found = sorted((tmp_path / "outputs" / "sweeps").rglob("result.json"))
    assert [path.parent.name for path in found] == ["seed-0", "seed-1"]
    assert len({path.parent.parent for path in found}) == 1
    assert [json.loads(path.read_text())["seed"] for path in found] == [0, 1]


def test_a_mistake_in_any_job_of_a_multirun_is_answered_before_the_first(tmp_path: Path) -> None:
    code, out, err = train_cold("-m", "+experiment=siamese_staged", "data.image_size=15,32", "seed=0,1", cwd=tmp_path)
    assert (code, out) == (1, "")
    assert err == (
        "stagetune: 1 problem in the configuration:\n  data.image_size=15: must be at least 16 "
        "(in data.image_size=15 seed=0, data.image_size=15 seed=1)\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("_own_net")
def test_ctrl_c_ends_a_run_in_one_line(tmp_path: Path) -> None:
    long = ("schedule.stages.0.epochs=500", "checkpoint.min_seconds=0")
    process = start(TRAIN, *OWN_NET, *long, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.rglob("last.ckpt")):
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("stagetune: interrupted; ")
    assert err.count("\n") == 1
    (path,) = tmp_path.rglob("result.json")
    assert json.loads(path.read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_data_error_ends_a_run_in_one_line_and_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = train("data=image_folder", f"data.root={tmp_path}/empty", "trainer=cpu", cwd=tmp_path)
    assert code == 1
    assert err == (
        f"stagetune: data.root={tmp_path}/empty: holds no images; expected root/<class>/*.png or "
        "root/{train,val,test}/<class>/*.png, or another format that Pillow reads\n"
    )
    (path,) = tmp_path.rglob("result.json")
    assert json.loads(path.read_text())["error"]["type"] == "DataError"


def numbers(path: Path) -> list[list[str]]:
    """A run's metrics without the columns that are times."""
    rows = list(csv.reader(path.open()))
    kept = [i for i, name in enumerate(rows[0]) if "second" not in name]
    return [[row[i] for i in kept] for row in rows]


def until_exists(name: str, folder: Path) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := list(folder.rglob(name)):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {name} came")


@pytest.mark.slow
@pytest.mark.usefixtures("_own_net")
def test_a_killed_run_goes_on_in_its_directory_and_nothing_else_is_made_of_it(tmp_path: Path) -> None:
    """And whatever would make it another run is refused, and leaves it as it was."""
    process = start(TRAIN, *OWN_NET, "schedule.stages.0.epochs=30", "checkpoint.every_n_steps=2", cwd=tmp_path)
    run_dir = until_exists("last.ckpt", tmp_path).parents[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = (run_dir / "config.yaml").read_text()
    refusals = {
        "seed=1": "  seed=1: the run was begun with 0; leave it so, or start a new run",
        "schedule.stages.0.lr=0.5": "stagetune: the run was begun with another schedule: stage head: the rate of "
        "head.weight is 0.5, was 0.005; take the old one, start a new run, or say resume_with_new_schedule=true",
        "+experiment=siamese_staged": "  +experiment=siamese_staged: cannot be said to a resumed run; leave it out",
    }
    for override, message in refusals.items():
        code, _, err = train(f"resume={run_dir}", "trust=true", override, cwd=tmp_path)
        assert (code, err.splitlines()[-1]) == (1, message)
        assert not (run_dir / "result.json").exists()
    assert (run_dir / "config.yaml").read_text() == before
    code, _, err = train(f"resume={run_dir}", cwd=tmp_path)
    assert (code, err) == (
        1,
        "stagetune: 1 problem in the configuration:\n"
        f"  resume={run_dir}: its config.yaml names networks.Net, code that it does not hold; if you trust where it "
        "comes from, type it again, model.network._target_=networks.Net, or say trust=true\n",
    )
    code, out, err = train(f"resume={run_dir}", "model.network._target_=networks.Net", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert f"resume    from {run_dir}/checkpoints/last.ckpt\n" in out
    assert "stage 1/1 head: goes on in epoch " in out
    assert json.loads((run_dir / "result.json").read_text())["stages"][0]["epochs"] == 30
    assert [path.parent for path in tmp_path.rglob("result.json")] == [run_dir]
    assert list((tmp_path / "outputs" / "classifier_staged").iterdir()) == [run_dir]
    code, _, err = train(f"resume={run_dir}", "trust=true", cwd=tmp_path)
    assert (code, err) == (
        1,
        f"stagetune: {run_dir} is completed, there is nothing to go on with; {run_dir}/result.json has its numbers, "
        f"and python train.py resume={run_dir} model.network._target_=networks.Net schedule.stages.0.epochs=60 "
        "resume_with_new_schedule=true goes on for as long again\n",
    )
    result, longer = (run_dir / "result.json").read_text(), "schedule.stages.0.epochs=31"
    code, _, err = train(f"resume={run_dir}", "trust=true", longer, cwd=tmp_path)
    assert code == 1
    assert "stage head: epochs is 31, was 30; its rates so far (cosine) follow from its length" in err
    assert (run_dir / "result.json").read_text() == result
    code, out, err = train(f"resume={run_dir}", "trust=true", longer, "resume_with_new_schedule=true", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert "last.ckpt, stage head: epochs is 31, was 30: not as if it had been begun so\n" in out
    assert json.loads((run_dir / "result.json").read_text())["stages"][0]["epochs"] == 31
    assert json.loads((run_dir / "earlier.json").read_text())["stages"][0]["epochs"] == 30


def test_a_directory_without_a_run_cannot_be_resumed(tmp_path: Path) -> None:
    code, _, err = train_cold("resume=outputs/nothing", cwd=tmp_path)
    assert code == 1
    assert "  resume=" in err
    assert f"config.yaml does not exist (looked in {tmp_path})" in err
    assert not (tmp_path / "outputs" / "nothing").exists()
    code, _, err = train_cold("-m", "resume=outputs/nothing", cwd=tmp_path)
    assert (code, err) == (1, "stagetune: resume= goes on with one run; leave -m out\n")


@pytest.mark.slow
@pytest.mark.usefixtures("_own_net")
def test_two_processes_leave_one_directory_one_result_and_one_log_whoever_starts_them(tmp_path: Path) -> None:
    """The jobs of a multirun, each with processes of its own, and torchrun: it trains by the numbers of the first."""
    words = (*OWN_NET, "trainer=ddp", "schedule.stages.0.epochs=2")
    code, out, err = train("-m", *words, "seed=0,1", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("run ")] == [
        "run       classifier_staged, seed 0",
        "run       classifier_staged, seed 1",
    ]
    torchrun = start("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", TRAIN, *words, cwd=tmp_path)
    out, err = torchrun.communicate(timeout=120)
    assert torchrun.returncode == 0, err
    assert out.count("best      val/accuracy") == 1
    first, second = sorted((tmp_path / "outputs" / "sweeps").rglob("result.json"))
    (third,) = (tmp_path / "outputs" / "classifier_staged").rglob("result.json")
    assert [path.parent.name for path in (first, second)] == ["seed-0", "seed-1"]
    for path in (first, second, third):
        result = json.loads(path.read_text())
        assert result["status"] == "completed"
        assert result["effective_batch_size"] == 2 * result["batch_size"]
        assert len(numbers(path.with_name("metrics.csv"))) == 3
    one, other, again = (numbers(path.with_name("metrics.csv")) for path in (first, second, third))
    assert one == again != other


@pytest.mark.slow
def test_an_error_in_several_processes_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ("data=image_folder", f"data.root={tmp_path}/empty", "trainer=ddp", "trainer.accelerator=cpu")
    code, _, err = train(*arguments, cwd=tmp_path)
    assert code == 1
    assert err.startswith(f"stagetune: data.root={tmp_path}/empty: holds no images; expected root/<class>")
    assert err.count("\n") == 1
    (path,) = tmp_path.rglob("result.json")
    assert json.loads(path.read_text())["status"] == "failed"
