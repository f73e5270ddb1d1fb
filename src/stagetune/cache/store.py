"""Tables of rows by key: in memory while they fit, in files that runs and processes share."""

import fcntl
import json
import math
import os
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

import torch
from torch import Tensor

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
        self._drafts: dict[str, IO[bytes]] = {}  # files of tables that are not whole yet
        self._said: set[str] = set()

    def get(self, key: str) -> Tensor | None:
        """The table of that key; None if it is nowhere, or if its file is damaged, which is then removed."""
        if key in _memory:
            _memory.move_to_end(key)
            return _memory[key]
        path = self._path(key)
        try:
            head = json.loads(path.with_suffix(".json").read_text())
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
            os.posix_fallocate(draft.fileno(), 0, nbytes)  # a full disk must be noticed now
        except OSError as error:
            self._give_up(key, error)
            return None
        table = torch.from_file(draft.name, shared=True, size=nbytes, dtype=torch.uint8)
        return table.view(dtype).view(tuple(shape))

    def put(self, key: str, table: Tensor) -> Tensor:
        """Keep the table where it fits."""
        if self.writes and table.nbytes <= self.disk_gb * GB:
            try:
                if key not in self._drafts:
                    self._drafts[key] = self._draft(table.nbytes)
                    self._drafts[key].write(_bytes(table))
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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = (self.folder / f"{key}.lock").open("w")
        except OSError:  # nowhere to write: nothing to share either
            yield
            return
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def remove(self, key: str) -> None:
        for suffix in (".json", ".bin", ".lock"):
            with suppress(OSError):
                self._path(key).with_suffix(suffix).unlink(missing_ok=True)

    def remove_abandoned(self) -> None:
        """Remove drafts whose process was killed."""
        for draft in self.folder.glob("*.tmp"):
            with suppress(OSError), draft.open() as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink()

    def files(self) -> list[tuple[str, int, float]]:
        """Key, bytes and time of last use of each file, the oldest first."""
        found = [(path.stem, path.stat()) for path in self.folder.glob("*.bin")]
        return sorted(((key, stat.st_size, stat.st_mtime) for key, stat in found), key=lambda entry: entry[2])

    def _publish(self, key: str, table: Tensor) -> None:
        """Give the draft that holds the table its name."""
        path = self._path(key)
        name, shape = str(table.dtype).removeprefix("torch."), list(table.shape)
        with self._drafts[key] as draft, self._draft(0) as head:
            draft.flush()
            os.fsync(draft.fileno())
            head.write(json.dumps({"dtype": name, "shape": shape, "check": _check(table, name, shape)}).encode())
            head.flush()
            os.replace(draft.name, path)
            os.replace(head.name, path.with_suffix(".json"))  # last: a table without it does not exist
        del self._drafts[key]

    def _give_up(self, key: str, error: OSError) -> None:
        self._say(f"{self.folder} cannot be written to ({error.strerror}); going on without a cache file")
        self.remove(key)
        if draft := self._drafts.pop(key, None):
            draft.close()
        self.remove_abandoned()

    def _draft(self, nbytes: int) -> IO[bytes]:
        """A new file with room for so much, locked as long as somebody writes to it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.remove_abandoned()
        self._make_room(nbytes)
        draft = NamedTemporaryFile(dir=self.folder, suffix=".tmp", delete=False)  # noqa: SIM115
        fcntl.flock(draft, fcntl.LOCK_EX)
        return draft

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


def forget() -> None:
    """Let go of all tables in this process's memory."""
    _memory.clear()


def _bytes(table: Tensor) -> memoryview:
    return memoryview(table.contiguous().flatten().view(torch.uint8).numpy().data)


def _check(table: Tensor, dtype: str, shape: list[int]) -> int:
    return zlib.crc32(_bytes(table), zlib.crc32(f"{dtype}{shape}".encode()))
