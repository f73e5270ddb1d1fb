"""A run on several processes: starting them, finding each other, and one result."""

import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch import distributed
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stagetune.artifacts import RunDir
from stagetune.config.resume import resume_command
from stagetune.config.schema import Config
from stagetune.errors import ConfigError, Interrupted, Killed, StagetuneError, number_of
from stagetune.report.result import RunResult, read_result, write_result
from stagetune.run.faults import killed
from stagetune.run.record import Run

HELD = "STAGETUNE_HELD"  # in the environment of processes whose run's directory the one that started them holds
LOOKS = 0.5  # seconds between two looks at whether that one is there
AGENTS = tuple(f"torch.distributed.elastic.{name}" for name in ("agent.server.api", "multiprocessing.api"))
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]


def are_started() -> bool:
    """Whether this is one of several processes that torchrun or SLURM has started."""
    return TorchElasticEnvironment.detect() or SLURMEnvironment.detect()


def is_held() -> bool:
    """Whether the process that started this one holds the run's directory for it."""
    return HELD in os.environ


def wants_several(trainer: Mapping[str, Any]) -> bool:
    """Whether the trainer's settings ask for more than one process."""
    return int(trainer.get("devices", 1)) * int(trainer.get("num_nodes", 1)) > 1


def check_asked(trainer: Mapping[str, Any]) -> None:
    """Raise `ConfigError` where torchrun has started several processes for a run that wants one."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count > 1 and trainer.get("strategy") != "ddp":
        raise ConfigError([f"{count} processes were started, but the run wants one; add trainer=ddp"])


def run_in_several(run: Run, *, resume: bool) -> RunResult:
    """The run in several processes on this machine; a result is written even if they all die."""
    before = {path: _written(path) for path in (run.dir.result, run.dir.config)}
    try:
        with _process_kept():
            _start(run.config, run.dir, resume=resume)
    except StagetuneError as error:
        is_accepted = not resume or _written(run.dir.config) != before[run.dir.config]
        is_told = _written(run.dir.result) not in (before[run.dir.result], None)
        if is_accepted and (not is_told or isinstance(error, Killed)):  # the others only know that one is missing
            if is_told:
                run.result = read_result(run.dir)
            else:
                run.accept()
            run.end_with(error)
            write_result(run.result, run.dir)
        raise
    return read_result(run.dir)


def _written(path: Path) -> int | None:
    """When a file was last written; None if there is none."""
    return path.stat().st_mtime_ns if path.exists() else None


def _start(config: Config, run_dir: RunDir, *, resume: bool) -> None:
    """Run the configuration on this machine's processes, and wait; raises the first one's error."""
    count = int(config.trainer["devices"])
    if int(config.trainer.get("num_nodes", 1)) > 1:
        raise ConfigError(
            ["trainer.num_nodes: several machines are started by torchrun or srun; see docs/schedules.md"]
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    os.environ[HELD] = str(os.getpid())
    _let_import_stagetune()
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex,
        max_restarts=0,
        monitor_interval=0.2,
        signals_to_handle="SIGQUIT",  # the others are heard already
    )
    for name in AGENTS:  # how the run ended is shown by us
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        # not by the run's config.yaml, which stays as it was until the run is accepted
        with tempfile.TemporaryDirectory() as folder:
            file = RunDir(folder).config
            file.write_text(yaml.safe_dump(asdict(config)))
            arguments = ["-m", "stagetune.rank", str(file), str(run_dir), *(["--resume"] if resume else [])]
            elastic_launch(settings, sys.executable)(*arguments)
    except (SignalException, KeyboardInterrupt) as stop:
        number = stop.sigval if isinstance(stop, SignalException) else number_of(stop)
        raise Interrupted(f"interrupted; go on with {resume_command(str(run_dir), config)}", number) from stop
    except ChildFailedError as failed:
        failures = sorted(failed.failures.items(), key=lambda one: one[1].timestamp)
        for rank, failure in failures:
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # by which the others are ended
                raise killed(rank, count, failure.signal_name(), str(run_dir), config) from failed
        found = [_message(failure.message).partition(": ") for _, failure in failures]
        # what the others say of the one that is missing is the last to be told
        kind, _, text = min(found, key=lambda one: one[0] == Killed.__name__)
        raise (Interrupted(text) if kind == "Interrupted" else StagetuneError(text or kind)) from failed


@contextmanager
def _process_kept() -> Iterator[None]:
    """Put back what starting ranks changes of this process: handlers of signals, loggers, environment."""
    environment, is_main = dict(os.environ), threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    levels = {name: logging.getLogger(name).level for name in AGENTS}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items() if is_main else ():
            signal.signal(number, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _let_import_stagetune() -> None:
    """Let processes that are started find this package, also in a checkout that is not installed."""
    root, known = str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")
    if root not in known.split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (root, known)))


def join(trainer: Mapping[str, Any]) -> tuple[int, int]:
    """This process's rank and the world size, once they have found each other."""
    if not wants_several(trainer):
        return 0, 1
    environment: ClusterEnvironment = SLURMEnvironment() if SLURMEnvironment.detect() else TorchElasticEnvironment()
    wanted = int(trainer["devices"]) * int(trainer.get("num_nodes", 1))
    if environment.world_size() != wanted:
        raise ConfigError(
            [f"trainer: devices x num_nodes is {wanted}, but {environment.world_size()} processes were started"]
        )
    if not SLURMEnvironment.detect():
        _end_with(int(os.environ.get(HELD, os.getppid())))
    if not distributed.is_initialized():
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        backend = "nccl" if torch.cuda.is_available() and trainer.get("accelerator") != "cpu" else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(environment.local_rank())
        distributed.init_process_group(backend, rank=environment.global_rank(), world_size=environment.world_size())
    return distributed.get_rank(), distributed.get_world_size()


def _end_with(parent: int) -> None:
    """Let this process end once the one that started it is no more, also where it could not say so."""
    import psutil  # one of several processes needs it, and no other

    def watch() -> None:
        while os.getppid() == parent and psutil.pid_exists(parent):
            time.sleep(LOOKS)
        os._exit(1)  # what is half written is a draft

    threading.Thread(target=watch, daemon=True).start()


def from_rank_zero(value: Any, world_size: int) -> Any:
    """The value of the process with rank 0, in all of them."""
    if world_size == 1:
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def _message(message: Any) -> str:
    text = message.get("message", message) if isinstance(message, Mapping) else message
    return str(text)
