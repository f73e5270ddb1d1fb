"""A gallery's folder: gallery.json names the file of the vectors by their hash, so that the two agree. No torch.

What is read may be anybody's: nothing in it is executed, no link is followed, no file outside the folder is touched.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from stagetune import __version__
from stagetune.artifacts import write_text, write_whole
from stagetune.errors import DataError, ResultError
from stagetune.inference.gallery_rows import Rows, image_problem, name_problem, not_finite
from stagetune.inference.search import Float32

VERSION = 1
DISTANCES = ("euclidean", "squared", "cosine", "weighted_l1")
JSON, LOCK = "gallery.json", "gallery.lock"
VECTORS = re.compile(r"gallery-[0-9a-f]{16}\.safetensors")
LEFT_OVER = re.compile(rf"{VECTORS.pattern}(\.[0-9a-f]{{32}}\.tmp)?|gallery\.json\.[0-9a-f]{{32}}\.tmp")
MEND = "copy the gallery again, or build it anew"


@dataclass(frozen=True)
class Header:
    """What all vectors of a gallery have in common.

    Args:
        model: the key of the model that made them.
        distance: by which they are compared.
        dimensions: of each.
    """

    model: str
    distance: str
    dimensions: int


def read(folder: Path) -> tuple[Header, Rows, str]:
    """What a gallery holds, and its `state`.

    Raises:
        DataError: where there is none, or none that is whole.
    """
    while True:
        content = _content(folder / JSON)
        header, pairs, name = _understood(folder / JSON, content)
        identities, images = zip(*pairs, strict=True) if pairs else ((), ())
        try:
            vectors = _vectors(folder / name, (len(pairs), header.dimensions))
        except FileNotFoundError:
            if content == _content(folder / JSON):  # else it was replaced, with its vectors, in between
                _damaged(folder / name, "is missing")
            continue
        return header, Rows(tuple(identities), tuple(images), vectors), hashlib.sha256(content).hexdigest()


def write(folder: Path, header: Header, rows: Rows) -> str:
    """Keep a gallery instead of the one that is there, to be called in `locked`; returns its `state`.

    It is the old one until the last of its files has its name, and the new one from then on.
    """
    name = f"gallery-{_digest(rows.vectors)}.safetensors"
    with write_whole(folder / name) as file:
        file.write(save({"vectors": rows.vectors}))
    entries = {"version": VERSION, "stagetune": __version__, **asdict(header), "vectors": name}
    lines = ",\n".join(json.dumps(pair) for pair in rows.pairs())
    content = f'{json.dumps(entries, indent=1)[:-2]},\n "rows": [\n{lines}\n]\n}}\n'
    write_text(folder / JSON, content)
    for path in folder.iterdir():
        if LEFT_OVER.fullmatch(path.name) and path.name != name:
            with suppress(OSError):  # Windows keeps what somebody reads: it goes the next time
                path.unlink()
    return hashlib.sha256(content.encode()).hexdigest()


def state(folder: Path) -> str | None:
    """What tells a gallery from one that was written before or after it; None if there is none."""
    if not (folder / JSON).exists():
        return None
    return hashlib.sha256(_content(folder / JSON)).hexdigest()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time writes.

    Raises:
        ResultError: where the folder cannot be written to.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            _check_file(folder / LOCK)  # older filelocks empty what a link leads to
        with lock:
            yield
    except OSError as error:
        raise ResultError(f"{folder}: cannot be written to ({error.strerror or error})") from error


def others(folder: Path) -> list[str]:
    """What is in a folder that no write of ours has left there."""
    if not folder.exists():
        return []
    try:
        return sorted(name for name in os.listdir(folder) if name != LOCK and not LEFT_OVER.fullmatch(name))
    except OSError as error:
        raise DataError(f"{folder}: is no folder that can be read ({error.strerror}); give another") from error


def _content(path: Path) -> bytes:
    try:
        _check_file(path)
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path.parent}: holds no gallery, since there is no {JSON}; `stagetune gallery build` makes one"
        ) from None
    except OSError as error:
        _damaged(path, f"cannot be read ({error.strerror})")


def _check_file(path: Path) -> None:
    """Not a link, which may lead anywhere, nor a pipe, which never ends."""
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        _damaged(path, "is a link" if stat.S_ISLNK(mode) else "is no file")


def _understood(path: Path, content: bytes) -> tuple[Header, list[tuple[str, str]], str]:
    """Header, identity and image of each row, and the name of the file of the vectors."""
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError) as error:
        _damaged(path, f"is no JSON ({error})")
    version = stored.get("version") if isinstance(stored, dict) else None
    if type(version) is not int:
        _damaged(path, "is not that of a gallery, as it says no version")
    if version > VERSION:
        raise DataError(f"{path}: is of version {version}, this stagetune reads up to {VERSION}; update stagetune")
    model, distance, dimensions, name, rows = (
        stored.get(entry) for entry in ("model", "distance", "dimensions", "vectors", "rows")
    )
    if not isinstance(model, str) or name_problem(model):
        _damaged(path, f"has {model!r} as the key of its model")
    if distance not in DISTANCES:
        _damaged(path, f"has the distance {distance!r}, which is none of {', '.join(DISTANCES)}")
    if type(dimensions) is not int or dimensions < 1:
        _damaged(path, f"has {dimensions!r} dimensions")
    if not isinstance(name, str) or not VECTORS.fullmatch(name):
        _damaged(path, f"names {name!r} as the file of its vectors, which no gallery has")
    return Header(model, distance, dimensions), _pairs(path, rows), name


def _pairs(path: Path, rows: Any) -> list[tuple[str, str]]:
    if not isinstance(rows, list):
        _damaged(path, "lists no rows")
    seen = set()
    for number, row in enumerate(rows):
        if not (isinstance(row, list) and [type(name) for name in row] == [str, str]):
            _damaged(path, f"row {number} is not an identity and an image")
        if problem := name_problem(row[0]) or image_problem(row[1]):
            _damaged(path, f"row {number}, {row!r}, has a name that {problem.split(';')[0]}")
        seen.add((row[0], row[1]))
    if len(seen) < len(rows):
        _damaged(path, "lists an image of an identity twice")
    return [(identity, image) for identity, image in rows]


def _vectors(path: Path, shape: tuple[int, int]) -> Float32:
    try:
        _check_file(path)
        with safe_open(path, framework="np") as file:
            if list(file.keys()) != ["vectors"]:
                _damaged(path, "holds other things than vectors")
            part = file.get_slice("vectors")
            if part.get_dtype() != "F32":
                _damaged(path, f"holds numbers of type {part.get_dtype()} instead of F32")
            if tuple(part.get_shape()) != shape:
                _damaged(path, f"holds vectors of shape {list(part.get_shape())}, {JSON} says {list(shape)}")
            vectors: Float32 = file.get_tensor("vectors")
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:
        _damaged(path, f"cannot be read ({error})")
    if wrong := not_finite(vectors):
        _damaged(path, f"vector {wrong[0]} is not finite")
    if path.name != f"gallery-{_digest(vectors)}.safetensors":
        _damaged(path, f"its vectors are not those that {JSON} was written for")
    return vectors


def _digest(vectors: Float32) -> str:
    return hashlib.sha256(vectors.data).hexdigest()[:16]


def _damaged(path: Path, what: str) -> NoReturn:
    raise DataError(f"{path}: {what}; {MEND}")
