"""What a run met that is none of its own errors, in a sentence: memory gone, a disk full, a process killed."""

import os
import re

import torch

from stagetune.config.resume import resume_command
from stagetune.config.schema import Config
from stagetune.errors import Killed, ResultError, StagetuneError, TrainingError, causes

DEVICE = ("CUDA out of memory", "MPS backend out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "bad_alloc",
    "can't start new thread",
)
SHARED = ("shared memory", "Bus error", "torch_shm", "unable to write to file </torch_", "unable to mmap")
PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe [", "remote process exited")
WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\)")
SMALLER = "accumulation=x2 of half the data.batch_size trains the same steps"


def explained(error: Exception, config: Config, where: str, run_dir: str | os.PathLike[str]) -> Exception:
    """The same error, or what a person can do about it.

    Args:
        error: what a run ended with.
        config: its settings, of which those are named that help.
        where: what it was doing, such as `in stage head`.
        run_dir: where it lies.
    """
    chain = [error] if isinstance(error, StagetuneError) else causes(error)
    return next((told for one in chain if (told := _told(one, config, where, str(run_dir)))), error)


def killed(rank: int, world_size: int, signal_name: str, run_dir: str, config: Config) -> Killed:
    """What is said where one of several processes did not end by itself."""
    memory = " (often main memory was gone: lower data.batch_size or data.num_workers)"
    return Killed(
        f"process {rank} of {world_size}, counted from 0, was killed by {signal_name}"
        f"{memory if signal_name == 'SIGKILL' else ''}, and the others were "
        f"ended; go on with {resume_command(run_dir, config)}"
    )


def _told(error: BaseException, config: Config, where: str, run_dir: str) -> StagetuneError | None:
    text = " ".join(str(error).split())
    size, again = f"data.batch_size={config.data.batch_size}", resume_command(run_dir, config)
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in DEVICE):
        return TrainingError(
            f"the device's memory was gone {where}, at {size}, data.image_size={config.input().size} and "
            f"precision={config.precision}; {SMALLER}, precision=bf16 and a smaller data.image_size need less, as do "
            "model.prune.ratio, cache.device_gb=0 and stages that open fewer blocks"
        )
    if any(words in text for words in PEER):
        return Killed(f"another of the run's processes ended {where}")
    if worker := WORKER.search(text):
        how = re.search(r"killed by signal: ([A-Za-z ]+)", text)
        shared = any(words in text for words in SHARED)
        why = "shared memory (/dev/shm) was full" if shared else "often main memory was gone"
        why += "" if shared or how else ", or shared memory (/dev/shm)"
        return TrainingError(
            f"a loader's process ({worker[1].strip()}) was killed {where}{f' ({how[1].strip()})' if how else ''}, at "
            f"{size}; {why}: go on with {again} data.num_workers={1 if how and not shared else 0}, or start again "
            "with a smaller data.batch_size or data.image_size"
        )
    if isinstance(error, OSError) and error.filename and error.strerror:
        return ResultError(
            f"{os.fsdecode(error.filename)}: {error.strerror} {where}; what was written before is kept: make room, "
            f"or let it be written, and go on with {again}"
        )
    if any(words in text for words in SHARED):
        return TrainingError(
            f"shared memory (/dev/shm) was full {where}, at {size}; go on with {again} data.num_workers=0, or start "
            "again with a smaller data.batch_size"
        )
    if isinstance(error, MemoryError) or any(words in text for words in MEMORY):
        workers = config.data.num_workers
        loading = "as many loader processes as the machine has room for" if workers is None else f"{workers}"
        return TrainingError(
            f"main memory was gone {where}, at {size}, data.num_workers={loading} and cache.memory_gb="
            f"{config.cache.memory_gb:g}; {SMALLER}, and data.num_workers=0, cache.memory_gb=0, precision=bf16 and a "
            "smaller data.image_size need less"
        )
    if isinstance(error, OSError) and error.strerror:
        return ResultError(f"{error.strerror} {where}; make room, and go on with {again}")
    return None
