"""Functions that run in two processes joined by gloo, for tests of what they do together."""

import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from commands import call


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], rank: int, port: int, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test",
        TORCHELASTIC_USE_AGENT_STORE="False",
    )  # fmt: skip
    torch.set_num_threads(1)
    result = function(*arguments)
    (folder / f"rank_{rank}.pkl").write_bytes(pickle.dumps(result))


def together(function: Callable[..., Any], *arguments: Any, folder: Path) -> list[Any]:
    """What `function` returns in each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    processes = [call(_run, function, arguments, rank, port, folder) for rank in (0, 1)]
    for process in processes:
        process.wait(180)
    assert [process.returncode for process in processes] == [0, 0], processes[0].stderr.read()
    return [pickle.loads((folder / f"rank_{rank}.pkl").read_bytes()) for rank in (0, 1)]
