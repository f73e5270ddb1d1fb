"""Nothing is lost: by two runs in one directory, signals, full disks, memory that is gone, pictures that fail."""

import errno
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from torch.utils.data import get_worker_info

from commands import call, start, start_cold
from stagetune.artifacts import RunDir, write_whole
from stagetune.config.compose import compose
from stagetune.config.schema import Config
from stagetune.data import datamodule
from stagetune.errors import ConfigError, Interrupted, ResultError, StagetuneError, TrainingError, shown
from stagetune.interrupts import Stopped, hear_again, heard
from stagetune.locks import held
from stagetune.report.collect import collect
from stagetune.report.result import read_result, write_result
from stagetune.run import experiment, record, run_experiment
from stagetune.run.faults import explained
from stagetune.tasks.classification import ClassificationTask
from test_train_py import OWN_NET, TRAIN, _own_net, until_exists

__all__ = ["_own_net"]
ENDLESS = (*OWN_NET, "schedule.stages.0.epochs=30000", "checkpoint.min_seconds=0")


def small(*overrides: str) -> Config:
    """A run of a second: three batches of digits under a network of four small layers."""
    return compose([*OWN_NET, "schedule.stages.0.epochs=1", "logger=csv", *overrides])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pictures: they are most of a small run's time."""
    monkeypatch.setattr(experiment, "draw_run", lambda *_: None)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------- the directory


def _hold(folder: Path) -> None:
    with held(folder, "run", "wait"):
        (folder / "is_held").touch()
        time.sleep(100)


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_a_directory_has_one_run_at_a_time_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    other = call(_hold, tmp_path / "run")
    until_exists("is_held", tmp_path)
    for resume in (False, True):
        if resume:
            (tmp_path / "run" / "config.yaml").touch()
        with pytest.raises(ResultError, match=r"run: another process is at this run; wait for it, or choose another"):
            run_experiment(small(), tmp_path / "run", resume=resume)
    assert files(tmp_path / "run") == {".lock", "is_held", "config.yaml"}
    other.send_signal(signal.SIGKILL)
    other.communicate()
    (tmp_path / "run" / "config.yaml").unlink()
    assert run_experiment(small(), tmp_path / "run").status == "completed"
    assert not (tmp_path / "run" / ".lock").exists()
    assert (tmp_path / "run" / "is_held").exists()  # what is not a run's own stays


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (
            ["config.yaml", "checkpoints/last.ckpt"],
            "holds a run that did not end; go on with .* resume=.*run, or choose",
        ),
        (["config.yaml"], "holds a run that did not end; go on with"),
        (
            ["config.yaml", "result.json"],
            r"already holds a result\.json; choose another directory with hydra\.run\.dir",
        ),
        (["metrics.csv"], r"already holds a metrics\.csv; choose another"),
        (["checkpoints/best.ckpt"], r"already holds a checkpoints/best\.ckpt; choose another"),
        (["figures/mine.png"], "already holds a figures; choose another"),
    ],
)
def test_a_new_run_writes_over_nothing(there: list[str], said: str, tmp_path: Path) -> None:
    for name in there:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("{}")
    with pytest.raises(ResultError, match=said):
        run_experiment(small(), tmp_path / "run")
    assert files(tmp_path / "run") == set(there)
    assert {path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file()} == {"{}"}


def test_a_directory_that_cannot_be_held_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(ResultError, match=r"run: cannot be written and locked \(File exists\); choose another"):
        run_experiment(small(), tmp_path / "run")


# ---------------------------------------------------------------------------- a disk


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["config.yaml", "plan.txt", "metrics.csv", "best.ckpt", "last.ckpt", "predictions.csv", "cache.json"]
)
@pytest.mark.usefixtures("drawn", "_own_net", "_no_probe")
def test_a_full_disk_at_any_file_leaves_no_draft_and_is_one_message(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the run goes on from what was there, once there is room."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    replace, run_dir = os.replace, RunDir(tmp_path)
    written: list[str] = []

    def fill(source: Any, target: Any) -> None:
        written.append(Path(target).name)
        if written.count(name) == 1 and Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source)
        replace(source, target)

    monkeypatch.setattr(os, "replace", fill)
    with pytest.raises(
        ResultError, match=rf"{name}: No space left on device (before|in) .*; what was written before"
    ):
        run_experiment(small(), tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    result = read_result(tmp_path)
    assert (result.status, result.error and result.error["type"]) == ("failed", "ResultError")
    if name != "config.yaml":
        assert run_experiment([f"resume={tmp_path}", "trust=true"]).status == "completed"
        assert run_dir.best.exists()


def _limited(words: list[str], folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000))
    run_experiment(compose(words), folder)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_net")
def test_a_checkpoint_that_the_system_cuts_off_is_no_checkpoint(tmp_path: Path) -> None:
    """A limit on a file's size, which is met in the middle of writing: a library's error, of which ours comes."""
    process = call(_limited, list(small_words()), tmp_path)
    _, err = process.communicate(timeout=100)
    assert "stagetune.errors.ResultError: " in err
    assert "checkpoints/best.ckpt: File too large in stage head; what was written before is kept" in err
    assert not {name for name in files(tmp_path) if name.endswith((".tmp", ".ckpt"))}
    assert read_result(tmp_path).status == "failed"


def small_words() -> tuple[str, ...]:
    return (*OWN_NET, "schedule.stages.0.epochs=1")


def test_a_draft_goes_whatever_a_library_makes_of_a_full_disk(tmp_path: Path) -> None:
    def write() -> None:
        with write_whole(tmp_path / "a.bin"):
            try:
                raise OSError(errno.EDQUOT, "Disk quota exceeded")
            except OSError as error:
                raise RuntimeError("pos 64 != 0") from error

    with pytest.raises(OSError, match="Disk quota exceeded") as raised:
        write()
    assert raised.value.filename == str(tmp_path / "a.bin")
    assert not files(tmp_path)


def _unheard(words: tuple[str, ...], folder: Path, device: str | None) -> None:
    if device:
        end = os.open(device, os.O_WRONLY)
    else:
        reader, end = os.pipe()
        os.close(reader)
    os.dup2(end, 1)
    run_experiment(compose(words), folder)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_net")
@pytest.mark.parametrize(
    ("device", "said"),
    [
        (
            "/dev/full",
            "stagetune: what the run says cannot be printed (No space left on device); it goes on without\n",
        ),
        (None, ""),
    ],
)
def test_a_run_whose_screen_is_full_or_unread_is_no_less_a_run(device: str | None, said: str, tmp_path: Path) -> None:
    _, err = call(_unheard, small_words(), tmp_path, device).communicate(timeout=100)
    assert err == said
    assert read_result(tmp_path).status == "completed"


# ---------------------------------------------------------------------------- results first, then pictures


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_is_a_warning_and_names_of_other_bytes_are_drawn(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class folder named in Latin-1, and one with what matplotlib takes for a formula."""
    (folder / "red").rename(folder / os.fsdecode(b"caf\xe9"))
    (folder / "blue").rename(folder / "$x^$")

    def fail(*_: Any) -> None:
        assert read_result(tmp_path / "run").status == "completed"
        raise ValueError("no font")

    monkeypatch.setattr("stagetune.run.pictures.draw_reliability", fail)
    config = small("data=image_folder", f"data.root={folder}")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert run_experiment(config, tmp_path / "run").status == "completed"
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert warnings == [f"warning   {tmp_path}/run/figures/reliability.png is not drawn: ValueError: no font"]
    drawn = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"confusion.png", "curves.png", "learning_rates.png"} <= drawn
    assert b"caf\xe9" in (tmp_path / "run" / "predictions.csv").read_bytes()
    [run] = collect(tmp_path).runs
    assert not list(run.damaged())
    assert os.fsdecode(b"caf\xe9") in {row["label"] for row in run.answers()}


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_a_tracker_that_fails_in_the_end_takes_no_run_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr("stagetune.run.record.track_result", fail)
    config = small("logger.lightning={_target_: lightning.pytorch.loggers.CSVLogger}")
    assert run_experiment(config, tmp_path).status == "completed"
    assert "CSVLogger does not know how the run ended: ConnectionError: the server is gone" in capsys.readouterr().out


# ---------------------------------------------------------------------------- signals


@pytest.mark.slow
@pytest.mark.usefixtures("_own_net")
@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ([signal.SIGINT] * 3, 130),
        ([signal.SIGTERM] * 2, 143),
        ([signal.SIGHUP], 129),
        ([signal.SIGTERM, signal.SIGINT], 143),
    ],
)
def test_a_signal_and_more_of_them_end_a_run_in_one_line(
    numbers: list[signal.Signals], code: int, tmp_path: Path
) -> None:
    process = start(TRAIN, *ENDLESS, cwd=tmp_path)
    run_dir = until_exists("last.ckpt", tmp_path).parents[1]
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.05)
    _, err = process.communicate(timeout=60)
    again = f"resume={run_dir} model.network._target_=networks.Net"
    assert (process.returncode, err) == (code, f"stagetune: interrupted; go on with python train.py {again}\n")
    assert read_result(run_dir).status == "interrupted"
    assert not [name for name in files(run_dir) if name.endswith((".tmp", ".lock"))]


@pytest.mark.slow
def test_a_signal_while_all_is_imported_is_a_line(tmp_path: Path) -> None:
    for delay, number, code in ((0.3, signal.SIGINT, 130), (0.3, signal.SIGTERM, 143)):
        process = start_cold(TRAIN, *ENDLESS, cwd=tmp_path)
        time.sleep(delay)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == code
        assert err.startswith("stagetune: interrupted")
        assert err.count("\n") == 1


@pytest.mark.slow
def test_a_signal_after_the_test_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither as it is written down nor as pictures are drawn."""
    stops = iter([True])

    def write(*given: Any) -> None:
        if next(stops, False):
            os.kill(os.getpid(), signal.SIGTERM)
        write_result(*given)

    for place, function in ((record, write), (experiment, lambda *_: os.kill(os.getpid(), signal.SIGTERM))):
        name = "write_result" if place is record else "draw_run"
        run_dir = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(place, name, function)
            with pytest.raises(Interrupted, match=f"^interrupted; the run in {run_dir} is completed$") as found:
                run_experiment(small(), run_dir)
        assert found.value.exit_code == 143
        assert read_result(run_dir).status == "completed"


def _closes_badly() -> None:
    """What OmegaConf does now and then where a signal comes as it composes."""
    try:
        raise Stopped(signal.SIGTERM)
    finally:
        raise ValueError("of the file that is not open")


def _composes_badly() -> None:
    try:
        _closes_badly()
    except ValueError as error:
        raise ConfigError([str(error)]) from error


@pytest.mark.parametrize("fails", [_closes_badly, _composes_badly])
def test_what_a_library_makes_of_a_signal_is_none_the_less_one(
    fails: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, shown():
        fails()
    assert ended.value.code == 143
    assert capsys.readouterr().err == "stagetune: interrupted before training began; nothing was written\n"


def test_a_signal_that_somebody_caught_is_obeyed_at_the_next_place() -> None:
    with heard():
        with suppress(BaseException):  # as torch_pruning does as it calls the network
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            hear_again()
    hear_again()  # nobody listens
    with heard():
        hear_again()  # another run


def test_handlers_of_a_program_stay_and_its_own_are_left_alone() -> None:
    own: Callable[..., None] = lambda *_: None  # noqa: E731
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, own)
        with pytest.raises(Stopped, match="SIGTERM"), heard(), heard():  # a run within a command
            os.kill(os.getpid(), signal.SIGTERM)
        with heard():
            assert signal.getsignal(signal.SIGHUP) is own
        assert signal.getsignal(signal.SIGTERM) is before[signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
        assert signal.getsignal(signal.SIGHUP) is own
        found: list[object] = []

        def listen() -> None:
            with heard():
                found.append(signal.getsignal(signal.SIGTERM))

        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        assert found == [before[signal.SIGTERM]]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# ---------------------------------------------------------------------------- processes and memory


@pytest.fixture
def ranks(tmp_path: Path, _own_net: None) -> Iterator[tuple[Any, list[psutil.Process], Path]]:
    """A run of two processes that trains: what was started, the processes, the directory."""
    process = start(TRAIN, *ENDLESS, "trainer=ddp", "trainer.devices=2", cwd=tmp_path)
    run_dir = until_exists("last.ckpt", tmp_path).parents[1]
    children = psutil.Process(process.pid).children(recursive=True)
    found = [child for child in children if "stagetune.rank" in child.cmdline()]
    yield process, sorted(found, key=lambda child: int(child.environ()["RANK"])), run_dir
    for child in found:
        if child.is_running():
            child.kill()


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(ranks: tuple[Any, list[psutil.Process], Path]) -> None:
    process, found, run_dir = ranks
    assert len(found) == 2
    process.send_signal(signal.SIGKILL)
    assert not psutil.wait_procs(found, timeout=20)[1]
    with pytest.raises(ResultError, match="holds a run that did not end; go on with"):
        run_experiment(small(), run_dir)


@pytest.mark.slow
def test_processes_end_with_each_other_and_the_killed_one_is_named(
    ranks: tuple[Any, list[psutil.Process], Path],
) -> None:
    process, found, run_dir = ranks
    found[1].send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert not psutil.wait_procs(found, timeout=20)[1]
    message = (
        "process 1 of 2, counted from 0, was killed by SIGKILL (often main memory was gone: lower data.batch_size or "
        f"data.num_workers), and the others were ended; go on with python train.py resume={run_dir} "
        "model.network._target_=networks.Net"
    )
    assert (process.returncode, err) == (1, f"stagetune: {message}\n")
    assert read_result(run_dir).error == {"type": "Killed", "message": message}


class Kills(Callback):
    """Kills a loader's process in the second batch: a child that was not there before the run."""

    spared: ClassVar[set[int]] = set()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            for child in psutil.Process().children():
                if child.pid not in self.spared and "resource_tracker" not in " ".join(child.cmdline()):
                    child.kill()
            time.sleep(1)


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_a_loaders_process_that_is_killed_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(Kills, "spared", {child.pid for child in psutil.Process().children()})
    config = small("+callbacks.kills._target_=test_lost.Kills", "data.num_workers=1", "cache=off")
    with pytest.raises(
        TrainingError,
        match=r"a loader's process \(\d+\) was killed in stage head( \(Killed\))?, at data\.batch_size=64; ",
    ):
        run_experiment(config, tmp_path)
    assert read_result(tmp_path).status == "failed"


class _Unsendable:
    """What a batch is where shared memory is full."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"
        )


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
def test_a_batch_that_a_loaders_process_cannot_send_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datamodule, "_as_is", lambda batch: _Unsendable() if get_worker_info() else batch)
    signal.alarm(100)  # it would wait for ever
    try:
        with pytest.raises(
            TrainingError, match=r"a loader's process \(\d+\) was killed .* shared memory \(/dev/shm\)"
        ):
            run_experiment(small("data.num_workers=1", "cache=off"), tmp_path)
    finally:
        signal.alarm(0)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "the device's memory was gone in stage",
        ),
        (MemoryError(), "main memory was gone in stage head, at data.batch_size=64, data.num_workers=2"),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: y"
            ),
            "main memory was gone in stage head",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "main memory was gone in stage head"),
        (
            RuntimeError(
                "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's workers "
                "are out of shared memory."
            ),
            "a loader's process (12) was killed in stage head (Bus error), at data.batch_size=64; shared memory",
        ),
        (
            RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"),
            "shared memory (/dev/shm) was full in stage head",
        ),
    ],
)
def test_memory_that_is_gone_is_a_sentence_with_what_helps(error: Exception, said: str) -> None:
    told = explained(error, compose(["data.num_workers=2"]), "in stage head", "outputs/run")
    assert isinstance(told, TrainingError)
    assert str(told).startswith(said)
    assert "data.batch_size" in str(told)
    assert "\n" not in str(told)


def test_an_error_of_somebodys_own_stays_what_it_is() -> None:
    for error in (ValueError("x"), StagetuneError("y"), Interrupted("z")):
        assert explained(error, compose([]), "in stage head", "run") is error


# ---------------------------------------------------------------------------- on_nan


class Poisoned:
    """A training step whose losses or gradients are no number in chosen batches, of six in an epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batches: Callable[[int], bool], how: str) -> None:
        plain = ClassificationTask.training_step

        def step(task: Any, batch: Any, batch_idx: int) -> Any:
            loss = plain(task, batch, batch_idx)
            if task.trainer.sanity_checking:  # the trial before training
                return loss
            if batches(6 * task.current_epoch + batch_idx):
                if how == "loss":
                    loss = loss * float("nan")
                else:
                    loss.register_hook(lambda gradient: gradient * float("inf"))
            return loss

        monkeypatch.setattr(ClassificationTask, "training_step", step)


class States(Callback):
    """What training changes, after each step."""

    seen: list[dict[str, Any]]

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        States.seen = [_state(trainer, pl_module)]

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        States.seen.append(_state(trainer, pl_module))


def _state(trainer: Any, module: Any) -> dict[str, Any]:
    optimizer = trainer.optimizers[0].state_dict()["state"]
    kept = {f"{i} {name}": value.clone() for i, state in optimizer.items() for name, value in state.items()}
    return {**{name: value.clone() for name, value in module.state_dict().items()}, **kept}


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


FULL = ("schedule=full", "+callbacks.states._target_=test_lost.States", "on_nan=skip_step", "cache=off")


def whole(*overrides: str) -> Config:
    words = [word for word in OWN_NET if word != "schedule=head_only" and "limit_train" not in word]
    return compose(
        [
            *words,
            "+trainer.limit_train_batches=6",
            *FULL,
            "schedule.stages.0.epochs=2",
            "data.num_workers=0",
            *overrides,
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", ["loss", "gradient"])
@pytest.mark.usefixtures("drawn", "_no_probe")
def test_a_step_that_is_left_out_changes_nothing_and_is_counted(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither weights nor the optimizer's state nor BatchNorm's statistics; with accumulation the whole window."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Poisoned(monkeypatch, lambda batch: batch == 3, how)
    result = run_experiment(whole("accumulation=x2"), tmp_path)
    from test_lost import States as Theirs  # as the run has imported it

    windows = Theirs.seen[::2]
    changed = [not _same(one, other) for one, other in pairwise(windows)]
    assert changed == [True, False, True, True, True, True]
    assert result.status == "completed"
    assert result.stages[0]["skipped_steps"] == 1
    assert result.stages[0]["steps"] == 6
    said = "on_nan    a step is left out, whose loss or gradient is no number, in stage all, epoch 0, step 2\n"
    assert said in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("drawn", "_no_probe")
def test_a_run_that_leaves_steps_out_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    bad = (2, 5, 8)
    with monkeypatch.context() as patch:
        Poisoned(patch, lambda batch: batch in bad, "loss")
        whole_run = run_experiment(whole(), tmp_path / "whole")
    words = ("checkpoint.every_n_steps=1",)
    with monkeypatch.context() as patch:

        def stop(batch: int) -> bool:
            if batch == 4:
                raise KeyboardInterrupt
            return batch in bad

        Poisoned(patch, stop, "loss")
        with pytest.raises(Interrupted):
            run_experiment(whole(*words), tmp_path / "halves")
    with monkeypatch.context() as patch:
        Poisoned(patch, lambda batch: batch in bad, "loss")
        halves = run_experiment(whole(*words), tmp_path / "halves", resume=True)
    assert halves.test == whole_run.test
    assert halves.stages[0]["skipped_steps"] == whole_run.stages[0]["skipped_steps"] == 3
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "halves")
    )
    assert _same(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words", "said"),
    [
        (
            "loss",
            ["on_nan=skip_step"],
            r"all 6 steps of epoch 0, in stage all, were left out \(on_nan=skip_step\); lower",
        ),
        ("gradient", ["on_nan=stop"], "a gradient is no number in stage all, epoch 0, step 1, though the loss is "),
        (
            "loss",
            ["on_nan=stop"],
            "the loss is nan in stage all, epoch 0, batch 1 of 6, .*; on_nan=skip_step leaves",
        ),
    ],
)
@pytest.mark.usefixtures("drawn", "_no_probe")
def test_a_run_of_nothing_but_nan_ends(
    how: str, words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Poisoned(monkeypatch, lambda batch: True, how)
    with pytest.raises(TrainingError, match=said):
        run_experiment(whole(*words), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "failed"
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


# ---------------------------------------------------------------------------- one-shot runs


def test_a_damaged_drawing_is_one_line(tmp_path: Path) -> None:
    from stagetune.errors import DataError
    from stagetune.evaluation.oneshot_runs import on_white

    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"a\.png: cannot be read as a drawing"):
        on_white(tmp_path / "a.png")
