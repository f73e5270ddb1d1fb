"""Jobs at the same time on one machine: a GPU for each. No torch, which looks for GPUs only once."""

import os
import shutil
import subprocess
from pathlib import Path

from filelock import FileLock, Timeout

VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[FileLock] = []  # for as long as the process lives: a launcher gives it one job after another


def claim_gpu(folder: Path) -> None:
    """Let this process see one GPU that no other process of the sweep in `folder` has, if one is left."""
    if _held:
        return
    known = os.environ.get(VISIBLE)
    for gpu in known.split(",") if known else _all_gpus():
        lock = FileLock(folder / f".gpu-{gpu}", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        _held.append(lock)
        os.environ[VISIBLE] = gpu
        return


def _all_gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return [str(i) for i, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]
