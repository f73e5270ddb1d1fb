"""Sweeps: validated whole, told job by job, gone on with, and each job as if it were alone."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException

from commands import Command, start
from hydra_plugins.stagetune_sweeper import show_failures
from stagetune.config.compose import compose, explain
from stagetune.errors import ConfigError, ResultError
from stagetune.report.collect import collect, read_sweep
from stagetune.report.result import RunResult, config_hash, write_result
from stagetune.run.resume import check_same, resume_words
from stagetune.sweep.combinations import jobs_of
from stagetune.sweep.job import run_job
from stagetune.sweep.jobs import Job, alone_in, make_ready, places, state_of, write_sweep
from stagetune.sweep.progress import Progress, duration
from test_train_py import numbers

ROOT = Path(__file__).parents[1]
OWN_NET = (
    "+experiment=classifier_staged", "model=own", "model.network._target_=networks.Net",
    "model.blocks=[stem,layer2,layer3,layer4]", "data.image_size=32", "precision=fp32", "trainer.accelerator=cpu",
    "+trainer.limit_train_batches=3", "schedule.stages.0.epochs=2", "sweep.name=tried",
)  # fmt: skip


def sweep(*arguments: str, cwd: Path) -> Command:
    folders = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    return start(str(ROOT / "tests" / "plain_train.py"), "-m", *OWN_NET, *arguments, cwd=cwd, env=environment)


def ended(process: Command) -> tuple[int | None, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def told(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("sweep ")]


def result(status: str, score: float = 0.5, seconds: float = 75.0, **values: object) -> RunResult:
    best = {"metric": "val/accuracy", "mode": "max", "value": score, "epoch": 0, "stage": "head", "checkpoint": ""}
    made = RunResult(status, "e", "classifier", 0, "h", "staged", "fp32", 1, 1, 1, best=best, **values)  # type: ignore[arg-type]
    made.timing = {"total_seconds": seconds}
    return made


def test_a_directory_is_named_after_the_overrides_the_seed_apart() -> None:
    words = ["+experiment=siamese_staged", "data.root=/a b/c", "schedule=lp_ft", "accumulation=x4", "seed=3"]
    assert places([words], {}) == ["schedule-lp-ft_accumulation-x4_data.root-a-b-c"]
    assert places([["seed=1", "+sweep=schedules"]], {}) == ["as-it-is"]
    many = [f"schedule.stages.{i}.lr=0.001" for i in range(20)]
    one, other = places([many, [*many[:-1], "schedule.stages.19.lr=0.002"]], {})
    assert len(one) < 120
    assert one != other


@pytest.mark.parametrize(
    "words",
    [
        ["data.root=d/set_1", "data.root=d/set-1"],
        ["data.root=d/A", "data.root=d/a"],  # one folder on some disks
        ["+data.target.rows=[{index: '-5:'}]", "+data.target.rows=[{index: '5:'}]"],
    ],
)
def test_two_jobs_of_one_name_have_a_directory_each_and_keep_it(words: list[str]) -> None:
    jobs = [[word, f"seed={seed}"] for word in words for seed in (0, 1)]
    found = places(jobs, {})
    assert found[0] == found[1] != found[2] == found[3]
    recorded = {f"{place}/seed-0": job for place, job in zip(found, jobs, strict=True)}
    assert places(jobs[:1], recorded) == found[:1]
    (alone,) = places([[words[0]]], {})
    again = places([[words[0]], [words[1]]], {f"{alone}/seed-0": [words[0]]})
    assert again[0] == alone != again[1]
    assert places([[words[1]]], {f"{alone}/seed-0": [words[0]]}) == again[1:]


def test_what_becomes_of_a_job_is_read_from_its_directory(tmp_path: Path) -> None:
    config, other = compose(["seed=1"]), compose(["seed=2"])
    assert state_of(tmp_path, config) == "begin"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**asdict(config), "sweep": {"name": "elsewhere"}}))
    assert state_of(tmp_path, config) == "repeat"  # stopped before its first checkpoint
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert (state_of(tmp_path, config), state_of(tmp_path, other)) == ("go on", "other")
    for status, states in {
        "interrupted": ("go on", "other"),
        "failed": ("repeat", "repeat"),
        "completed": ("done", "other"),
    }.items():
        write_result(result(status), tmp_path)
        assert (state_of(tmp_path, config), state_of(tmp_path, other)) == states
    (tmp_path / "result.json").write_text('{"torn')
    assert state_of(tmp_path, config) == "go on"


def test_a_run_begun_before_there_was_a_setting_had_its_default(tmp_path: Path) -> None:
    config = compose(["seed=1", "data.augment=affine"])
    other, plain = (
        replace(config, data=replace(config.data, **kind)) for kind in ({"resize": "pad"}, {"augment": "none"})
    )
    before = asdict(config)
    before["data"] = {key: value for key, value in before["data"].items() if key not in ("resize", "fold")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(before))
    write_result(result("completed"), tmp_path)
    assert state_of(tmp_path, config) == "done"
    assert state_of(tmp_path, other) == "other"
    assert collect(tmp_path).runs[0].settings["data.resize"] == "crop"
    check_same(before, asdict(config))
    with pytest.raises(ConfigError, match=r"data.resize=pad: the run was begun with crop"):
        check_same(before, asdict(other))
    assert resume_words(before, config) == (
        "; an earlier version began it: its images are augmented otherwise from here on"
    )
    assert not resume_words(before, plain)
    assert not resume_words(asdict(config), config)
    lfw = compose(["task=siamese", "loss=contrastive", "data=lfw", f"data.root={tmp_path}", "data.augment=affine"])
    assert not resume_words(asdict(lfw), lfw)  # which brings its split, and has no data.fold


def test_an_attempt_that_failed_is_kept_and_repeated_from_the_start(tmp_path: Path) -> None:
    config = compose([])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    write_result(result("failed"), tmp_path)
    make_ready(Job((), config, tmp_path))
    assert json.loads((tmp_path / "failed.json").read_text())["status"] == "failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "failed.json"]


def plain_values(words: list[str]) -> dict[str, object]:
    return asdict(compose(words))


def test_all_problems_of_all_jobs_are_said_at_once(tmp_path: Path) -> None:
    def plain(words: list[str]) -> dict[str, object]:
        values = plain_values(words[1:])
        values["seed"] = words[0].removeprefix("seed=")  # as a command line gives it
        return {**values, "precision": "fp23"} if "schedule=full" in words else values

    words = [[f"seed={seed}", f"schedule={name}"] for seed in ("x", "y") for name in ("full", "staged")]
    with pytest.raises(ConfigError) as caught:
        jobs_of(words, plain, tmp_path)  # type: ignore[arg-type]
    assert caught.value.problems == [
        "seed: expects a whole number, got 'x' (in seed=x schedule=full, seed=x schedule=staged)",
        "precision=fp23: no such choice; did you mean fp32? (in seed=x schedule=full, seed=y schedule=full)",
        "seed: expects a whole number, got 'y' (in seed=y schedule=full, seed=y schedule=staged)",
    ]


def test_runs_of_another_configuration_are_left_alone_and_named(tmp_path: Path) -> None:
    (job,) = jobs_of([["schedule=full"]], plain_values, tmp_path)  # type: ignore[arg-type]
    job.folder.mkdir(parents=True)
    (job.folder / "config.yaml").write_text(yaml.safe_dump(asdict(compose(["schedule=full", "data.image_size=96"]))))
    write_result(result("completed"), job.folder)
    with pytest.raises(ConfigError) as caught:
        jobs_of([["schedule=full"]], plain_values, tmp_path)  # type: ignore[arg-type]
    assert caught.value.problems == [
        f"sweep.name: {job.folder} already hold runs of other configurations; choose another name or remove "
        f"{tmp_path}"
    ]


def test_a_hash_is_of_the_run_not_of_its_sweep() -> None:
    config = asdict(compose([]))
    assert config_hash(config) == config_hash({**config, "sweep": {"name": "another"}, "resume": "there"})
    assert config_hash(config) != config_hash({**config, "seed": 1})


def test_sweeps_remember_all_jobs_that_were_asked_for(tmp_path: Path) -> None:
    config = compose([])
    write_sweep(tmp_path, [Job(("a=1",), config, tmp_path / "a-1" / "seed-0")])
    write_sweep(tmp_path, [Job(("b=1",), config, tmp_path / "b-1" / "seed-0")])
    assert read_sweep(tmp_path) == {"a-1/seed-0": ["a=1"], "b-1/seed-0": ["b=1"]}
    (tmp_path / "sweep.json").write_text("{torn")
    assert read_sweep(tmp_path) == {}


def test_two_commands_do_not_work_at_one_sweep(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(ResultError, match="another process is at this sweep"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


def test_the_time_left_leaves_out_a_backbone_that_was_pretrained_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [Job((f"lr={i}",), compose([]), tmp_path / str(i)) for i in range(3)]
    clock = iter([0.0, 400.0, 500.0])
    monkeypatch.setattr("stagetune.sweep.progress.time", SimpleNamespace(monotonic=clock.__next__))
    progress = Progress(jobs, ["lr=0", "lr=1", "lr=2"])
    for job, waited in zip(jobs[:2], (300.0, 0.1), strict=True):
        job.folder.mkdir()
        ended = result("completed", 0.7)
        ended.timing["weights_seconds"] = waited
        write_result(ended, job.folder)
        progress.tell()
    left = re.findall("about (.*) left", capsys.readouterr().out)
    assert left == ["3 min 20 s", "1 min 40 s"]  # two jobs of 100 s, one of 100 s


def test_a_line_for_each_job_says_how_far_the_sweep_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [Job((f"lr={i}",), compose([]), tmp_path / str(i)) for i in range(4)]
    for job in jobs:
        job.folder.mkdir()
    write_result(result("completed", 0.7), jobs[0].folder)
    progress = Progress(jobs, ["lr=0", "lr=1", "lr=2", "lr=3"], done=jobs[:1])
    progress.tell()
    assert capsys.readouterr().out == ""
    write_result(result("completed", 0.6), jobs[1].folder)
    progress.tell()
    write_result(result("failed", error={"type": "DataError", "message": "no images\nat all"}), jobs[2].folder)
    progress.tell()
    write_result(result("completed", 0.8, 4000), jobs[3].folder)
    progress.tell()
    progress.tell()
    assert re.sub("about .* left", "about ... left", capsys.readouterr().out).splitlines() == [
        "sweep     2 of 4  lr=1: val/accuracy 0.6000 after 1 min 15 s; best so far 0.7000 (lr=0); about ... left",
        "sweep     3 of 4  lr=2: failed after 1 min 15 s: DataError: no images; best so far 0.7000 (lr=0); "
        "about ... left",
        "sweep     4 of 4  lr=3: val/accuracy 0.8000 after 1 h 6 min; best so far 0.8000 (lr=3)",
    ]
    assert [duration(seconds) for seconds in (0.4, 59.6, 3599, 7260)] == [
        "0 s",
        "1 min 0 s",
        "59 min 59 s",
        "2 h 1 min",
    ]


def until(found: object, process: Command) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if found():  # type: ignore[operator]
            return
        time.sleep(0.02)
    raise AssertionError("it did not come")


@pytest.mark.slow
def test_a_sweep_stopped_inside_and_between_jobs_goes_on_to_the_numbers_of_jobs_alone(tmp_path: Path) -> None:
    """By SIGKILL and by Ctrl-C. The k-th job of a process has, bit for bit, the numbers of the same job by itself."""
    words = ("schedule=lp_ft,full", "schedule.stages.0.epochs=4", "seed=0,1", "checkpoint.min_seconds=0")
    base = tmp_path / "outputs" / "sweeps" / "tried"
    process = sweep(*words, cwd=tmp_path)
    until(lambda: list(base.rglob("last.ckpt")), process)  # inside the first job
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(base.rglob("result.json"))
    process = sweep(*words, cwd=tmp_path)
    until(lambda: len(list(base.rglob("result.json"))) == 2, process)  # after the second
    process.send_signal(signal.SIGKILL)
    first = process.communicate()[0]
    assert told(first)[0] == "sweep     4 jobs in outputs/sweeps/tried: 1 to go on, 3 to begin"
    assert "goes on in epoch" in first
    done = {path: path.read_bytes() for path in base.rglob("result.json")}
    process = sweep(*words, cwd=tmp_path)
    until(lambda: len(list(base.rglob("last.ckpt"))) == 3, process)  # inside the third
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert (code, err.count("\n")) == (130, 1)
    assert err.startswith("stagetune: interrupted; the same command again goes on with ")
    code, out, err = ended(sweep(*words, cwd=tmp_path))
    assert (code, err) == (0, "")
    assert told(out)[0].endswith(": 2 done, 1 to go on, 1 to begin")
    assert told(out)[-1].startswith("sweep     4 of 4  ")
    assert {path: path.read_bytes() for path in done} == done  # what was done is left alone
    alone = [word.replace("lp_ft,full", "full").replace("0,1", "1") for word in words]
    ended(sweep(*alone, "sweep.name=alone", cwd=tmp_path))
    for path in (tmp_path / "outputs" / "sweeps" / "alone").rglob("metrics.csv"):
        (twin,) = base.glob(f"*schedule-full*/{path.parent.name}/metrics.csv")
        assert numbers(twin) == numbers(path)


def test_where_it_is_asked_for_no_job_begins_after_one_that_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = compose(["sweep.stop_on_failure=true"])
    jobs = [Job((f"lr={i}",), config, tmp_path / f"lr-{i}" / "seed-0") for i in range(2)]
    write_sweep(tmp_path, jobs)
    jobs[0].folder.mkdir(parents=True)
    write_result(result("failed"), jobs[0].folder)
    assert run_job(config, jobs[1].folder) is None
    assert capsys.readouterr().err == (
        f"stagetune: {jobs[1].folder} is not begun, since lr-0/seed-0 failed (sweep.stop_on_failure)\n"
    )


def test_what_ends_a_job_before_it_has_a_run_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Such as a setting that was taken away while the sweep ran; Hydra would keep it to itself."""
    errors = [ConfigError(["data.gone: no such key"]), ValueError("of a library"), 0.5]
    states = [JobStatus.FAILED, JobStatus.FAILED, JobStatus.COMPLETED]
    show_failures(
        [
            JobReturn(overrides=[f"seed={i}"], _return_value=error, status=status)
            for i, (error, status) in enumerate(zip(errors, states, strict=True))
        ]
    )
    assert capsys.readouterr().err.splitlines() == [
        "stagetune: 1 problem in the configuration:",
        "  data.gone: no such key",
        "stagetune: seed=1: ValueError: of a library",
    ]


@pytest.mark.slow
def test_a_failing_job_is_told_and_recorded_and_the_others_go_on(tmp_path: Path) -> None:
    """And is repeated by the same command."""
    words = ("schedule=head_only", "+model.network.gain=nan,1.0")
    code, out, err = ended(sweep(*words, cwd=tmp_path))
    assert code == 1
    assert [line[:16] for line in told(out)[1:]] == ["sweep     1 of 2", "sweep     2 of 2"]
    assert "failed after" in told(out)[1]
    assert "TrainingError" in told(out)[1]
    assert "1 of 2 jobs did not complete: " in err.splitlines()[-1]
    code, out, _ = ended(sweep(*words, cwd=tmp_path))
    assert code == 1
    assert told(out)[0].endswith(": 1 done, 1 to repeat")


def test_jobs_at_the_same_time_have_a_gpu_each(tmp_path: Path) -> None:
    """As many as there are; a process keeps its own for its next job."""
    code = (
        "import os, sys; from pathlib import Path; from stagetune.sweep.gpus import claim_gpu; "
        f"[claim_gpu(Path({str(tmp_path)!r})) for _ in range(2)]; "
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "4,7"}
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert all(job.stdout for job in jobs)
    assert sorted(job.stdout.readline() for job in jobs if job.stdout) == ["4\n", "4,7\n", "7\n"]
    for job in jobs:
        job.communicate()


@pytest.mark.parametrize(("launcher", "extra"), [("ray", "ray"), ("joblib", "sweep"), ("submitit_slurm", "sweep")])
def test_a_launcher_that_is_not_installed_is_named_with_its_extra(
    launcher: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagetune.config.compose.find_spec", lambda name: None)
    problems = explain(HydraException("Could not find"), [f"hydra/launcher={launcher}"]).problems
    assert problems == [f"hydra/launcher={launcher}: its plugin is not installed; pip install 'stagetune[{extra}]'"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "submitit_slurm", "ray"])
def test_jobs_run_in_two_processes_at_once(launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLURM's jobs on a cluster that is made up, tests/slurm."""
    if launcher == "ray":  # an extra that dev leaves out
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="Ray's plugin is not installed")
    monkeypatch.setenv("PATH", str(ROOT / "tests" / "slurm"), prepend=os.pathsep)
    settings = {"joblib": ["hydra.launcher.n_jobs=2"], "ray": []}.get(launcher, ["hydra.launcher.timeout_min=5"])
    code, out, err = ended(
        sweep("schedule=head_only", "seed=0,1", f"hydra/launcher={launcher}", *settings, cwd=tmp_path)
    )
    assert (code, err) == (0, "")
    assert [line[:17] for line in out.splitlines()] == ["sweep     2 jobs ", "sweep     1 of 2 ", "sweep     2 of 2 "]
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert [one["status"] for one in found] == ["completed"] * 2
    cores = len(os.sched_getaffinity(0))
    if launcher == "joblib":  # cores are divided among the jobs
        assert {one["environment"]["device"]["threads"] for one in found} == {max(1, cores // 2)}
    assert all("results " in path.read_text() for path in tmp_path.rglob("screen.txt"))
