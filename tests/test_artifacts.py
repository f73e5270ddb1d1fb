"""What lies in a run's directory: whole files, the same paths everywhere, and what a checkpoint says of itself."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stagetune.artifacts import (
    METADATA,
    METADATA_VERSION,
    CheckpointMetadata,
    RunDir,
    StageRecord,
    stored_config,
    write_text,
    write_whole,
)
from stagetune.errors import ResultError, WeightsError
from stagetune.report.result import read_result

SRC = Path(__file__).parents[1] / "src"


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="No space"):
        _fill_the_disk(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept.txt"]


def _fill_the_disk(path: Path) -> None:
    with write_whole(path) as file:
        file.write(b"half of the n")
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    (tmp_path / "summary.csv").symlink_to(elsewhere)
    write_text(tmp_path / "summary.csv", "ours")
    assert elsewhere.read_text() == "theirs"
    assert not (tmp_path / "summary.csv").is_symlink()


def test_a_draft_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("theirs")
    (tmp_path / f"page.html.{os.getpid()}.tmp").symlink_to(elsewhere)
    write_text(tmp_path / "page.html", "ours")
    assert elsewhere.read_text() == "theirs"


def test_a_run_that_goes_on_removes_the_drafts_of_the_one_that_was_killed(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.checkpoints.mkdir()
    drafts = [run_dir.checkpoints / "last.ckpt.7.tmp", tmp_path / "result.json.7.tmp"]
    for draft in drafts:
        draft.write_text("half")
    write_text(run_dir.last, "whole")
    run_dir.remove_drafts()
    assert not any(draft.exists() for draft in drafts)
    assert run_dir.last.exists()


def test_no_other_module_names_a_path_of_a_run() -> None:
    """A second place that knows a name is one that is forgotten when it changes."""
    names = [path.name for path in vars(RunDir("")).values() if isinstance(path, Path) and path.suffix]
    assert len(names) == 12
    for module in SRC.rglob("*.py"):
        if module.name != "artifacts.py":
            code = module.read_text()
            assert not [name for name in names if f'"{name}"' in code or f"'{name}'" in code], module


OF_TODAY = {  # as version 0.1.0 wrote it
    "config": {"data": {"name": "omniglot", "crossed": 2}, "seed": 1},
    "classes": ["a", "b"],
    "weights": "imagenet",
    "trained_on": {"omniglot": ["a"]},
    "images": ["00"],
    "calibration": {"threshold": 0.5},
}


def test_metadata_of_an_older_version_is_read_with_todays_names() -> None:
    metadata = CheckpointMetadata.of({METADATA: OF_TODAY})
    assert metadata.config == {"data": {"name": "omniglot", "spliced": 2}, "seed": 1}
    assert (metadata.classes, metadata.weights, metadata.version) == (["a", "b"], "imagenet", METADATA_VERSION)
    assert metadata.calibration == {"threshold": 0.5}


def test_metadata_comes_back_from_a_file_as_plain_data(tmp_path: Path) -> None:
    metadata = CheckpointMetadata.of({METADATA: OF_TODAY})
    checkpoint: dict[str, Any] = {}
    metadata.put_into(checkpoint)
    torch.save(checkpoint, tmp_path / "x.ckpt")
    assert CheckpointMetadata.of(torch.load(tmp_path / "x.ckpt", weights_only=True)) == metadata


def test_metadata_of_a_newer_version_and_none_are_refused() -> None:
    with pytest.raises(WeightsError, match="has metadata of version 99, this stagetune reads up to 1; update"):
        CheckpointMetadata.of({METADATA: {"version": 99}})
    with pytest.raises(WeightsError, match="holds no metadata of this project"):
        CheckpointMetadata.of({"state_dict": {}})


def test_the_configuration_of_an_older_run_has_todays_names(tmp_path: Path) -> None:
    write_text(RunDir(tmp_path).config, yaml.safe_dump({"seed": 3, "data": {"crossed": 2}}))
    assert stored_config(RunDir(tmp_path)) == {"seed": 3, "data": {"spliced": 2}}


@pytest.mark.parametrize("content", ["- a\n- list", "a: [", "\x00"])
def test_a_configuration_that_is_none_is_said(content: str, tmp_path: Path) -> None:
    write_text(RunDir(tmp_path).config, content)
    with pytest.raises(ResultError, match=r"config\.yaml (cannot be read|holds no configuration)"):
        stored_config(RunDir(tmp_path))


def check_record(record: StageRecord) -> None:
    """A record of result.json has the keys that its type names, and no other."""
    required, optional = StageRecord.__required_keys__, StageRecord.__optional_keys__
    assert required <= set(record) <= required | optional


@pytest.mark.slow
@pytest.mark.usefixtures("_no_pictures")
def test_the_records_of_a_run_are_what_their_type_says(tiny: Any, tmp_path: Path) -> None:
    from stagetune.run import run_experiment

    run_experiment(tiny("+experiment=classifier_staged", stages=2), tmp_path / "run")
    stages = read_result(tmp_path / "run").stages
    assert [stage["start_epoch"] for stage in stages] == [0, 1]
    for stage in stages:
        check_record(stage)
