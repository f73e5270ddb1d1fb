"""Files of tensors hold what was written to them, or are refused."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch

from stagetune import load, run_experiment
from stagetune.config.schema import Config
from stagetune.errors import WeightsError
from stagetune.inference.export.safetensors import read_safetensors, write_safetensors
from stagetune.models.tensor_files import DamagedFile, read_tensors
from stagetune.models.weights import file_weights


def flip(file: Path, at: int, bit: int = 6) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def flip_a_weight(file: Path) -> None:
    """In the data of the largest tensor: its exponent, so that it is a number of 1e37."""
    with ZipFile(file) as archive:
        data = archive.read(max(archive.infolist(), key=lambda entry: entry.file_size))
    flip(file, file.read_bytes().index(data) + 3)


@pytest.mark.slow
def test_whatever_bit_of_a_file_is_flipped_it_is_refused_or_means_the_same(tmp_path: Path) -> None:
    file, rng = tmp_path / "x.pt", np.random.default_rng(0)
    weights = torch.from_numpy(rng.random(64))
    torch.save({"weights": weights, "name": "x"}, file)
    whole, refused = file.read_bytes(), 0
    for at in range(0, len(whole), 2):
        file.write_bytes(whole)
        flip(file, at, int(rng.integers(8)))
        try:
            content = read_tensors(file)
        except Exception:  # torch's own are of many kinds, where it is no zip any more
            refused += 1
        else:
            assert content["name"] == "x"
            assert torch.equal(content["weights"], weights)
    assert refused > 64 * 4


def test_an_entry_that_says_it_is_a_folder_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save({"weights": torch.rand(64)}, file)
    flip(file, file.read_bytes().rindex(b"x/data/0") - 8, 4)  # its attributes, in the table of contents
    with pytest.raises(DamagedFile, match=r"is damaged \(x/data/0 is marked as a folder\); copy it again"):
        read_tensors(file)


@pytest.mark.parametrize("end", [100, 1000, -1])
def test_a_file_that_ends_too_early_is_damaged(end: int, tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save({"weights": torch.rand(64)}, file)
    file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(DamagedFile, match=r"x\.pt: is damaged \(.*; copy it again from where it is whole$"):
        read_tensors(file)


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    content, before = {"weights": torch.rand(64)}, torch.serialization.get_crc32_options()
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, tmp_path / "fast.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    for name in ("old.pt", "fast.pt"):
        assert torch.equal(read_tensors(tmp_path / name)["weights"], content["weights"])


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures", "_no_probe")
def test_a_flipped_bit_in_a_checkpoint_is_found_wherever_it_is_read(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    run_experiment(tiny("+experiment=classifier_staged", stages=1), run_dir)
    best, last = (run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    (run_dir / "result.json").unlink()  # as if it had been killed before its end
    kept = {file: file.read_bytes() for file in (best, last)}

    flip_a_weight(best)
    damaged = rf"best\.ckpt: is damaged \(Bad CRC-32 for file '\S+'\); copy .*, or take {last}, the weights of"
    doors: list[Callable[[], Any]] = [
        lambda: load(run_dir),
        lambda: load(best),
        lambda: file_weights(run_dir),
        lambda: run_experiment(tiny("+experiment=classifier_staged", stages=1), run_dir, resume=True),
    ]
    for door in doors:
        with pytest.raises(WeightsError, match=damaged):
            door()
    load(last)

    best.write_bytes(kept[best])
    flip_a_weight(last)
    with pytest.raises(WeightsError, match=rf"last\.ckpt: is damaged .*, or begin .*, model\.weights={best}$"):
        doors[-1]()
    assert not (run_dir / "result.json").exists()
    shutil.copy(tmp_path / __file__, last)
    with pytest.raises(WeightsError, match=r"last\.ckpt: is not a checkpoint of this project .*; start a new run$"):
        doors[-1]()
    last.write_bytes(kept[last])
    assert doors[-1]().status == "completed"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_flipped_bit_in_an_exported_safetensors_file_is_found(dtype: torch.dtype, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    shapes: list[tuple[int, ...]] = [(), (0, 4), (2, 3)]
    write_safetensors(file, {str(shape): torch.ones(shape, dtype=dtype) for shape in shapes}, {})
    with pytest.raises(WeightsError, match="holds weights alone"):  # it is whole
        read_safetensors(file)
    whole = file.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    for position in range(8 + header, len(whole)):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(WeightsError, match=r"a\.safetensors: is no .*, or damaged \(its checksum is another\)"):
            read_safetensors(file)
