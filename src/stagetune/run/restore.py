"""The model of a checkpoint, built again from what the checkpoint says of itself."""

from pathlib import Path
from typing import Any

import torch

from stagetune.config.schema import Config
from stagetune.config.validate import read_config
from stagetune.errors import ConfigError, WeightsError
from stagetune.run.build import build_network, build_task
from stagetune.tasks.staged_task import StagedTask


def load_task(path: str | Path) -> tuple[StagedTask, Config, dict[str, Any]]:
    """The task in eval mode, its configuration and its card; raises `WeightsError` for a file that is not ours."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        card, state = content["stagetune"], content["state_dict"]
    except Exception as error:
        raise WeightsError(
            f"{path}: is not a checkpoint of this project ({error}); give a run's checkpoints/best.ckpt"
        ) from error
    try:
        config = read_config(card["config"])
    except ConfigError as error:
        raise WeightsError(
            f"{path}: was made by another version of this project: {'; '.join(error.problems)}"
        ) from error
    backbone = build_network(config.model, config.data.image_size)
    task = build_task(config, backbone, len(card["classes"]), card)
    task.load_state_dict(state)
    return task.eval(), config, card
