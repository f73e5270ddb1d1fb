"""Changes to the bytes of a file, and to what it holds, for `fuzz`: what a disk, an editor or a stranger may do."""

import copy
import io
import json
import math
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
import yaml
from torch import Tensor

NUMBER = re.compile(rb"-?\d+(\.\d+)?(e-?\d+)?")
EXTREME = (b"0", b"-1", b"-0.0", b"2147483648", b"-9223372036854775809", b"1e308", b"1e999", b"nan", b"0x10", b"007",
           b"9" * 5000, b"1_000", "٣".encode(), "²".encode())  # fmt: skip
WORDS = (b"", b"\0", b"\n", b"\r", b"\t", b",", b";", b'"', b"'", b":", b"- ", b"{", b"}", b"[", b"]", b"[" * 3000,
         b"{'a':" * 3000, b"null", b"~", b"?", b"&a", b"*a", b"<<: ", b"#", b"!", b"%", b"\xff", b"\xef\xbb\xbf",
         "\u2028".encode(), "ä".encode("latin-1"), b"../../x", b"/dev/null", b"a" * 70_000)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308, math.nan, math.inf, "",
    "x", "0", "nan", "head", "..", "../../x", "/", "a\0b", "\ud800", "\x1b[2J", "x" * 70_000, [], [[]], [0],
    ["x"], [None, True], list(range(3000)), {}, {"x": 1}, {"": None}, {"value": "x"},
    {"_target_": "torch.nn.Identity"}, [{"name": "x"}],
)  # fmt: skip


@dataclass(frozen=True)
class Format:
    """How a file is written, as far as that allows of changes that leave the rest of it readable.

    Attributes:
        is_text: numbers and words can be told in it.
        is_zip: each of its entries can be changed by itself, under a right checksum.
        read: bytes to plain values, None where it has none.
        write: the way back.
    """

    is_text: bool = False
    is_zip: bool = False
    read: Callable[[bytes], Any] | None = None
    write: Callable[[bytes, Any], bytes] = lambda before, tree: before


def mutated(rng: Random, data: bytes, other: bytes, form: Format) -> bytes:
    """The content of a file, changed once or a few times; the same for the same state of `rng`."""
    ways = [_bits, _run, _shorter, _doubled, _inserted, lambda rng, data: _spliced(rng, data, other)]
    if form.is_text:
        ways += [_number] * 4 + [_word] * 3
    if form.is_zip:
        ways += [_entry] * 4
    if form.read is not None:
        ways += [lambda rng, data: _structure(rng, data, form)] * len(ways)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(ways)(rng, data)
    return data


def _place(rng: Random, data: bytes) -> int:
    """Anywhere, as often within the first hundred bytes, where headers are."""
    return rng.randrange(min(len(data), 100) + 1) if rng.random() < 0.5 else rng.randrange(len(data) + 1)


def _bits(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20)) if data else 0):
        changed[min(_place(rng, data), len(data) - 1)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _run(rng: Random, data: bytes) -> bytes:
    begin, length = _place(rng, data), rng.choice((1, 2, 4, 8, 64))
    value = rng.choice((bytes(length), b"\xff" * length, b"\x7f" + b"\xff" * (length - 1), rng.randbytes(length)))
    return data[:begin] + value + data[begin + length :]


def _shorter(rng: Random, data: bytes) -> bytes:
    begin = _place(rng, data)
    return data[:begin] if rng.random() < 0.5 else data[:begin] + data[begin + rng.choice((1, 4, 100)) :]


def _doubled(rng: Random, data: bytes) -> bytes:
    begin, end = sorted((_place(rng, data), _place(rng, data)))
    return data[:end] + data[begin:end] * rng.choice((1, 1, 10)) + data[end:]


def _inserted(rng: Random, data: bytes) -> bytes:
    begin = _place(rng, data)
    return data[:begin] + rng.randbytes(rng.choice((1, 4, 100))) + data[begin:]


def _spliced(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, data)] + other[_place(rng, other) :]


def _number(rng: Random, data: bytes) -> bytes:
    found = list(NUMBER.finditer(data))
    if not found:
        return data
    begin, end = rng.choice(found).span()
    return data[:begin] + rng.choice(EXTREME) + data[end:]


def _word(rng: Random, data: bytes) -> bytes:
    begin = _place(rng, data)
    return data[:begin] + rng.choice(WORDS) + data[begin + rng.choice((0, 0, 1, 5)) :]


def _entry(rng: Random, data: bytes) -> bytes:
    """One entry of a zip file changed, left out or renamed."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # it was changed before
        return data
    place = rng.randrange(len(entries))
    name, content = entries[place]
    entries[place] = rng.choice(
        [(name, rng.choice((_bits, _run, _shorter, _inserted, _doubled))(rng, content))] * 6
        + [(f"{name}x", content), ("/".join(["..", name]), content), entries[0]]
    )
    written = io.BytesIO()
    with zipfile.ZipFile(
        written, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as to:
        for name, content in dict(entries).items():
            to.writestr(zipfile.ZipInfo(name), content)
    return written.getvalue()


def _structure(rng: Random, data: bytes, form: Format) -> bytes:
    """A key, an entry or a value of what the file holds changed."""
    try:
        whole = [form.read(data)]
    except Exception:  # it was changed before
        return data
    places = list(_places(whole))
    holder, key = rng.choice(places)
    value = holder[key]
    way = rng.randrange(9)
    if way == 0 and holder is not whole:
        del holder[key]
    elif way == 1 and holder is not whole and isinstance(holder, dict):
        holder[rng.choice((f"{key}x", "", 0, None, True, "a.b"))] = holder.pop(key)
    elif way == 2:
        other, at = rng.choice(places)
        holder[key] = copy.deepcopy(other[at])
    elif way == 3 and holder is not whole and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(value))
    elif way == 4:
        holder[key] = rng.choice(([value], {"x": value}, str(value)[:1000]))
    elif isinstance(value, Tensor):
        holder[key] = rng.choice(
            (value.flatten(), value.flatten()[:0], value.double(), value.int(), torch.zeros(()),
             value.float() * math.nan, value.float() + 1e38, value.bool(), value.half(),
             value.to(torch.complex64), torch.zeros(3, 0), value[None])
        )  # fmt: skip
    else:
        holder[key] = copy.deepcopy(rng.choice(VALUES))
    try:
        return form.write(data, whole[0])
    except Exception:  # no such file can be written
        return data


def _places(whole: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Every container within a value with each key or index of it, the outermost first."""
    waiting: list[Any] = [whole]
    while waiting:
        holder = waiting.pop()
        if isinstance(holder, dict | list):
            for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
                yield holder, key
                waiting.append(holder[key])


def _load(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _save(_: bytes, tree: Any) -> bytes:
    written = io.BytesIO()
    torch.save(tree, written)
    return written.getvalue()


def _safetensors_header(data: bytes) -> Any:
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    said = header.get("__metadata__", {})  # text, in which JSON stands
    header["__metadata__"] = {key: json.loads(text) for key, text in said.items()}
    return header


def _with_header(before: bytes, header: Any) -> bytes:
    said = header.get("__metadata__")
    if isinstance(said, dict):
        header["__metadata__"] = {key: json.dumps(value) for key, value in said.items()}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + before[8 + struct.unpack("<Q", before[:8])[0] :]


def _onnx_metadata(data: bytes) -> Any:
    import onnx

    return {prop.key: json.loads(prop.value) for prop in onnx.load_from_string(data).metadata_props}


def _with_onnx_metadata(before: bytes, said: Any) -> bytes:
    import onnx

    model = onnx.load_from_string(before)
    del model.metadata_props[:]
    for key, value in said.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    return bytes(model.SerializeToString())


BINARY = Format()
TEXT = Format(is_text=True)
JSON = Format(is_text=True, read=json.loads, write=lambda _, tree: json.dumps(tree, indent=1).encode())
YAML = Format(
    is_text=True,
    read=lambda data: yaml.load(data, yaml.CSafeLoader),
    write=lambda _, tree: yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False).encode(errors="surrogatepass"),
)
CHECKPOINT = Format(is_zip=True, read=_load, write=_save)
SAFETENSORS = Format(read=_safetensors_header, write=_with_header)
ONNX = Format(read=_onnx_metadata, write=_with_onnx_metadata)
