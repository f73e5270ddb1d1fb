"""A run on several processes: starting them, finding each other, and one result."""

import logging
import os
import sys
import tempfile
import uuid
from collections.abc import Mapping
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

from stagetune.errors import ConfigError, Interrupted, StagetuneError


def are_started() -> bool:
    """Whether this is one of several processes that torchrun or SLURM has started."""
    return TorchElasticEnvironment.detect() or SLURMEnvironment.detect()


def wants_several(trainer: Mapping[str, Any]) -> bool:
    """Whether the trainer's settings ask for more than one process."""
    return int(trainer.get("devices", 1)) * int(trainer.get("num_nodes", 1)) > 1


def start(config: Mapping[str, Any], run_dir: Path, *, resume: bool) -> None:
    """Run the configuration on this machine's processes, and wait; raises the first one's error."""
    trainer = config["trainer"]
    count = int(trainer["devices"])
    if int(trainer.get("num_nodes", 1)) > 1:
        raise ConfigError(["trainer.num_nodes: several machines are started by torchrun or srun; see the README"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id=uuid.uuid4().hex,
        max_restarts=0,
        monitor_interval=0.2,
    )
    for name in ("agent.server.api", "multiprocessing.api"):  # how the run ended is shown by us
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    try:
        # not by the run's config.yaml, which stays as it was until the run is accepted
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(dict(config), file)
            file.flush()
            arguments = ["-m", "stagetune.run", file.name, str(run_dir), *(["--resume"] if resume else [])]
            elastic_launch(settings, sys.executable)(*arguments)
    except SignalException as stop:
        raise Interrupted(f"interrupted; go on with python train.py resume={run_dir}") from stop
    except ChildFailedError as failed:
        kind, _, text = _message(failed.get_first_failure()[1].message).partition(": ")
        raise (Interrupted(text) if kind == "Interrupted" else StagetuneError(text or kind)) from failed


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
    if not distributed.is_initialized():
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
        backend = "nccl" if torch.cuda.is_available() and trainer.get("accelerator") != "cpu" else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(environment.local_rank())
        distributed.init_process_group(backend, rank=environment.global_rank(), world_size=environment.world_size())
    return distributed.get_rank(), distributed.get_world_size()


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
