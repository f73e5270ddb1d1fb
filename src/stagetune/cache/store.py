"""Tables of rows by key: in memory while they fit, in files that runs and processes share."""

import json
import math
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from stagetune.artifacts import stored_json, write_text

GB = 1e9
_memory: OrderedDict[str, Tensor] = OrderedDict()  # shared by the runs of this process, the oldest first


class Store:
    """Tables in a folder and in this process's memory, within budgets of gigabytes.

    A table that does not fit, or that cannot be written, is simply not kept; `say` is told why, once. Of several
    processes one `writes`.
    """

    def __init__(
        self, folder: Path, *, memory_gb: float, disk_gb: float, say: Callable[[str], None], writes: bool = True
    ) -> None:
        self.folder, self.memory_gb, self.disk_gb, self.writes = folder, memory_gb, disk_gb, writes
        self._tell = say
        self._drafts: dict[str, _Draft] = {}  # files of tables that are not whole yet
        self._said: set[str] = set()

    def get(self, key: str) -> Tensor | None:
        """The table of that key; None if it is nowhere, or if its file is damaged, which is then removed."""
        if key in _memory:
            _memory.move_to_end(key)
            return _memory[key]
        path = self._path(key)
        try:
            head = stored_json(path.with_suffix(".json"))
            dtype = getattr(torch, head["dtype"])
            table = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
            table = table.view(dtype).view(head["shape"])
            if _check(table, head["dtype"], head["shape"]) != head["check"]:
                raise ValueError("its bytes are not those that were written")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            self._say(f"cache file {path} is damaged ({error}); it is computed anew")
            self.remove(key)
            return None
        os.utime(path)  # the least recently used are removed first
        fits = table.nbytes <= self.memory_gb * GB
        return self._remember(key, table.clone()) if fits else table

    def fits(self, nbytes: int) -> bool:
        """Whether a table of that size can be kept in memory or in a file."""
        fits = nbytes <= max(self.memory_gb, self.disk_gb) * GB
        if not fits:
            self._say(f"a table of {nbytes / GB:.2f} GB is over the cache's budget; computing instead")
        return fits

    def new(self, key: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        """An empty table to be filled and then `put`: in memory, or in a file if it is larger than memory may be.

        None where it fits neither, and in a process that does not write that file.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        if nbytes <= self.memory_gb * GB:
            return torch.empty(tuple(shape), dtype=dtype)
        if not self.writes or not self.fits(nbytes):
            return None
        try:
            draft = self._drafts[key] = self._draft(nbytes)
            draft.reserve(nbytes)
        except OSError as error:
            self._give_up(key, error)
            return None
        table = torch.from_file(str(draft.path), shared=True, size=nbytes, dtype=torch.uint8)
        return table.view(dtype).view(tuple(shape))

    def put(self, key: str, table: Tensor) -> Tensor:
        """Keep the table where it fits."""
        if self.writes and table.nbytes <= self.disk_gb * GB:
            try:
                if key not in self._drafts:
                    self._drafts[key] = self._draft(table.nbytes)
                    self._drafts[key].file.write(_bytes(table))
                self._publish(key, table)
            except OSError as error:
                self._give_up(key, error)
        return self._remember(key, table) if table.nbytes <= self.memory_gb * GB else table

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """One process at a time: whoever waited finds the table that the other has written."""
        if not self.writes:
            yield
            return
        lock = FileLock(self.folder / f"{key}.lock")
        with suppress(OSError):  # nowhere to write: nothing to share either
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def remove(self, key: str) -> None:
        for suffix in (".json", ".bin", ".lock"):
            with suppress(OSError):
                self._path(key).with_suffix(suffix).unlink(missing_ok=True)

    def remove_abandoned(self) -> None:
        """Remove drafts whose process was killed."""
        for lock in self.folder.glob("*.tmp.lock"):
            with suppress(Timeout, OSError), FileLock(lock, blocking=False):
                lock.with_suffix("").unlink(missing_ok=True)
                lock.unlink()

    def files(self) -> list[tuple[str, int, float]]:
        """Key, bytes and time of last use of each file, the oldest first."""
        found = [(path.stem, path.stat()) for path in self.folder.glob("*.bin")]
        return sorted(((key, stat.st_size, stat.st_mtime) for key, stat in found), key=lambda entry: entry[2])

    def _publish(self, key: str, table: Tensor) -> None:
        """Give the draft that holds the table its name."""
        path = self._path(key)
        name, shape = str(table.dtype).removeprefix("torch."), list(table.shape)
        self._drafts.pop(key).publish(path)
        head = {"dtype": name, "shape": shape, "check": _check(table, name, shape)}
        write_text(path.with_suffix(".json"), json.dumps(head))  # last: a table without it does not exist

    def _give_up(self, key: str, error: OSError) -> None:
        self._say(f"{self.folder} cannot be written to ({error.strerror}); going on without a cache file")
        self.remove(key)
        if draft := self._drafts.pop(key, None):
            draft.drop()
        self.remove_abandoned()

    def _draft(self, nbytes: int) -> "_Draft":
        """A new file with room for so much."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.remove_abandoned()
        self._make_room(nbytes)
        return _Draft(self.folder)

    def _make_room(self, nbytes: int) -> None:
        files = self.files()
        used = sum(size for _, size, _ in files)
        for key, size, _ in files:
            if used + nbytes <= self.disk_gb * GB:
                return
            self.remove(key)
            used -= size

    def _remember(self, key: str, table: Tensor) -> Tensor:
        _memory[key] = table
        _memory.move_to_end(key)
        while sum(kept.nbytes for kept in _memory.values()) > self.memory_gb * GB and len(_memory) > 1:
            _memory.popitem(last=False)
        return table

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.bin"

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._tell(text)


class _Draft:
    """A file that has no name yet. It is locked as long as its process lives, so that others know whether it does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{uuid4().hex}.tmp"
        self._lock = FileLock(f"{self.path}.lock")
        self._lock.acquire()
        self.file = self.path.open("xb")

    def reserve(self, nbytes: int) -> None:
        """Give it that size; a full disk is noticed now where the system can tell."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self.file.fileno(), 0, nbytes)
        else:
            self.file.truncate(nbytes)

    def publish(self, path: Path) -> None:
        try:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            os.replace(self.path, path)
        finally:
            self.drop()

    def drop(self) -> None:
        with suppress(OSError):
            self.file.close()
        for path in (self.path, Path(self._lock.lock_file)):
            path.unlink(missing_ok=True)
        self._lock.release()


def forget() -> None:
    """Let go of all tables in this process's memory."""
    _memory.clear()


def _bytes(table: Tensor) -> memoryview:
    return memoryview(table.contiguous().flatten().view(torch.uint8).numpy().data)


def _check(table: Tensor, dtype: str, shape: list[int]) -> int:
    return zlib.crc32(_bytes(table), zlib.crc32(f"{dtype}{shape}".encode()))
