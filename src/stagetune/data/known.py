"""Files whose facts are known, so that a later start neither decodes nor hashes them again. No torch."""

import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeVar

from filelock import FileLock

from stagetune.data.facts import Facts

VERSION = 1  # of the database and of the way that images are decoded
MOST = 1_000_000  # entries; those that were not used for longest drop out
GRAIN = 2_000_000_000  # ns: two changes of a file within it may have the same time (FAT has two seconds)
AT_ONCE = 1000  # files that are looked up while others wait to write
DAY = 24 * 3600
WAIT = 5.0  # seconds for another process that writes
_OUTSIDE = {  # what SQLite says of the disk or of other processes; all else is a damaged file
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_NOMEM,
}  # fmt: skip
_T = TypeVar("_T")


@dataclass(frozen=True)
class Stamp:
    """What tells a file's state without reading it.

    Attributes:
        text: size, times of the last change of content and of the file itself, inode.
        changed: the later of those times, in ns.
        seen: when it was looked at, in ns.
    """

    text: str
    changed: int
    seen: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """That of a file now; None where it is not there."""
        seen = time.time_ns()
        try:
            stat = os.stat(path)
        except OSError:
            return None
        times = (stat.st_mtime_ns, stat.st_ctime_ns)  # the second shows a change whose first was put back
        return cls(f"{stat.st_size} {times[0]} {times[1]} {stat.st_ino}", max(times), seen)


class KnownFiles:
    """A table of files in a folder of the user's cache, which runs and processes share.

    It is a help and never needed: one that is damaged is made anew, one that cannot be read or written is done
    without, and `say` is told so, once. Nothing is remembered of a file that cannot be decoded.
    """

    def __init__(self, folder: Path, *, say: Callable[[str], None], most: int = MOST) -> None:
        self.folder, self.most = folder, most
        self.path = folder / f"files-{VERSION}.sqlite"
        self._say = say
        self._is_told = False
        self._has_new = False
        self._database: sqlite3.Connection | None = None
        self._asked(_create, None)

    def facts(self, paths: Sequence[Path], how: str) -> list[tuple[Stamp | None, Facts | None]]:
        """The stamp of each file, None where it is not there, and its facts, None where they are not known.

        Args:
            paths: of the files.
            how: in words, all beside the file that decides its facts.
        """
        found: list[tuple[Stamp | None, Facts | None]] = []
        today, used = _day(), []
        for first in range(0, len(paths), AT_ONCE):
            some = paths[first : first + AT_ONCE]
            stamps, keys = [Stamp.of(path) for path in some], [(_name(path), how) for path in some]
            for stamp, key, row in zip(stamps, keys, self._rows(keys), strict=True):
                facts = _facts(row, stamp) if row and stamp else None
                found.append((stamp, facts))
                if row and facts is not None and row[-1] != today:
                    used.append((today, *key))
        if used:
            self._asked(lambda database: _write(database, _USED, used), None)
        return found

    def record(self, seen: Sequence[tuple[Path, Stamp, Facts]], how: str) -> None:
        """Remember facts of files that were so at that stamp, taken before they were read."""
        rows = []
        for path, stamp, facts in seen:
            text = json.dumps(asdict(facts))
            check = _check(stamp.text.encode(), stamp.seen, text.encode())
            rows.append((_name(path), how, stamp.text, stamp.seen, text, check, _day()))
        if rows:
            self._has_new = True
            self._asked(lambda database: _write(database, _RECORD, rows), None)

    def lock(self, paths: Iterable[Path]) -> FileLock:
        """One for all processes that read the same files: whoever waited finds them known."""
        names = hashlib.blake2b(b"\0".join(map(_name, paths)), digest_size=16)
        return FileLock(self.folder / f"{names.hexdigest()}.lock")

    def count(self) -> tuple[int, int]:
        """How many files are known, and the size of the table in bytes."""
        count = self._asked(lambda database: int(database.execute("SELECT count(*) FROM files").fetchone()[0]), 0)
        return count, self.path.stat().st_size if self.path.exists() else 0

    def clear(self) -> None:
        """Forget all."""
        self.close()
        for path in [*self.folder.glob("*.sqlite*"), *self.folder.glob("*.lock")]:
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; entries that are too many drop out."""
        if self._has_new:
            self._asked(lambda database: _write(database, _DROP, [(self.most,)]), None)
        if self._database is not None:
            self._database.close()
            self._database = None

    def _rows(self, keys: Sequence[tuple[bytes, str]]) -> list[Sequence[Any] | None]:
        """The row of each key, None where there is none."""

        def ask(database: sqlite3.Connection) -> list[Sequence[Any] | None]:
            with _transaction(database, "BEGIN"):  # else each of them would lock and unlock the file
                return [database.execute(_FIND, key).fetchone() for key in keys]

        return self._asked(ask, [None] * len(keys))

    def _asked(self, ask: Callable[[sqlite3.Connection], _T], otherwise: _T) -> _T:
        """What the database answers; from where it cannot on, it is done without."""
        if self._is_told:
            return otherwise
        try:
            if self._database is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._database = _opened(self.path)
            return ask(self._database)
        except OSError as error:
            self._do_without(f"cannot be used ({error.strerror})")
        except sqlite3.Error as error:
            # the low byte is the kind
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _OUTSIDE:
                self._do_without(f"cannot be used ({error})")
            else:
                self._remake()
                with suppress(sqlite3.Error):
                    return ask(self._database) if self._database is not None else otherwise
        return otherwise

    def _remake(self) -> None:
        self._say(f"{self.path}, the list of known images, is damaged; it is made anew")
        if self._database is not None:
            self._database.close()
            self._database = None
        try:
            for path in (self.path, Path(f"{self.path}-journal")):
                path.unlink(missing_ok=True)
            self._database = _opened(self.path)
            _create(self._database)
        except (OSError, sqlite3.Error) as again:
            self._do_without(f"cannot be made anew ({again})")

    def _do_without(self, why: str) -> None:
        self._is_told = True
        self._say(f"{self.path}, the list of known images, {why}; images are read again at each start")


_FIND = "SELECT stamp, seen, facts, checked, used FROM files WHERE path = ? AND how = ?"
_RECORD = "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)"
_USED = "UPDATE files SET used = ? WHERE path = ? AND how = ?"
_DROP = (
    "DELETE FROM files WHERE (path, how) IN (SELECT path, how FROM files ORDER BY used, seen "
    "LIMIT max(0, (SELECT count(*) FROM files) - ?))"
)


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=WAIT, isolation_level=None)
    database.text_factory = bytes  # as which anything can be read
    database.execute("PRAGMA synchronous = OFF")  # a power cut may damage it, which is noticed
    return database


def _create(database: sqlite3.Connection) -> None:
    """Make the table where there is none; raises where what there is contradicts itself."""
    # no write-ahead log: it does not go over a network's file system
    database.execute(
        "CREATE TABLE IF NOT EXISTS files (path BLOB, how TEXT, stamp TEXT, seen INTEGER, facts TEXT, "
        "checked INTEGER, used INTEGER, PRIMARY KEY (path, how)) WITHOUT ROWID"
    )
    if database.execute("PRAGMA integrity_check(1)").fetchone() != (b"ok",):
        raise sqlite3.DatabaseError


def _write(database: sqlite3.Connection, statement: str, rows: Sequence[Sequence[object]]) -> None:
    """All rows or none."""
    with _transaction(database, "BEGIN IMMEDIATE"):
        database.executemany(statement, rows)


@contextmanager
def _transaction(database: sqlite3.Connection, begin: str) -> Iterator[None]:
    database.execute(begin)
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            database.execute("ROLLBACK")
        raise


def _facts(row: Sequence[Any], now: Stamp) -> Facts | None:
    """Those of a row, where the file is still as it was; None for a row that is damaged or was written too early.

    A file that had just been changed as it was looked at may have been changed again within the same tick of its
    clock, as in git's index.
    """
    stamp, seen, facts, checked, _ = row
    if stamp != now.text.encode() or checked != _check(stamp, seen, facts) or seen <= now.changed + GRAIN:
        return None
    values = json.loads(facts)
    return Facts(**values) if values.keys() == {entry.name for entry in fields(Facts)} else None


def _check(*values: object) -> int:
    return zlib.crc32(repr(values).encode())


def _name(path: Path) -> bytes:
    return os.fsencode(os.path.abspath(path))


def _day() -> int:
    return int(time.time()) // DAY
