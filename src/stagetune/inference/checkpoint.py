"""The task of a checkpoint, built again from what the checkpoint says of itself."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from stagetune.artifacts import CheckpointMetadata, RunDir, sweep_file
from stagetune.config.schema import Config
from stagetune.config.settings import NoLoss
from stagetune.config.validate import read_config
from stagetune.errors import ConfigError, WeightsError
from stagetune.inference.description import calibration_problems
from stagetune.models.cut import rebuild
from stagetune.models.tensor_files import read_checkpoint
from stagetune.run.build import build_task
from stagetune.tasks.staged_task import StagedTask
from stagetune.trust import Trust, Untrusted, foreign


def load_task(path: str | os.PathLike[str], *, trust: Trust = False) -> tuple[StagedTask, Config, CheckpointMetadata]:
    """The task in eval mode, its configuration and its metadata.

    Args:
        path: a checkpoint, or the directory of a run, whose best one is taken.
        trust: whether a network of somebody's own, which the checkpoint names, may be imported and run; or the names
            of those that may.

    Raises:
        WeightsError: for a file that is no checkpoint of this project, or of another version that cannot be read, and
            without `trust` for one that names code from elsewhere.
    """
    given = Path(path).expanduser()
    file = RunDir(given).best if given.is_dir() else given
    if file != given and not file.exists() and sweep_file(given).exists():
        raise WeightsError(
            f"{given}: is a sweep; give one of its runs, of which `stagetune best {given}` names the best"
        )
    if file != given and not file.exists() and RunDir(given).config.exists():
        raise WeightsError(
            f"{given}: has no best checkpoint; it is still training, or never ended an epoch: resume it"
        )
    if not file.is_file():
        raise WeightsError(f"{file}: does not exist (looked in {Path.cwd()}); give a run's checkpoints/best.ckpt")
    content = read_checkpoint(file, instead="give a run's checkpoints/best.ckpt")
    return task_of(content, file, trust=trust)


def task_of(content: Any, file: Path, *, trust: Trust) -> tuple[StagedTask, Config, CheckpointMetadata]:
    """The same of a checkpoint that is read already; `file` is what messages call it."""
    try:
        metadata = CheckpointMetadata.of(content if isinstance(content, dict) else {})
    except WeightsError as error:
        raise WeightsError(f"{file}: {error}") from error
    try:
        config = read_config(metadata.config)
        check_trusted(config, trust=trust)
        if problems := calibration_problems(config.task.name, metadata.calibration):
            raise ConfigError(problems)
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, and replaced by those of the file
            backbone = config.model.build(config.input().size)
            rebuild(backbone, metadata.pruning, config.input().size)
            # loss and optimizer may be of somebody's own, and not at hand
            loss, optimizer = NoLoss(distance=config.loss.measure()), {"_target_": "torch.optim.SGD"}
            used = replace(config, loss=loss, optimizer=optimizer)
            task = build_task(used, backbone, len(metadata.classes), metadata)
        state = content["state_dict"]
        task.load_state_dict({name: value for name, value in state.items() if not name.startswith("loss.")})
    except Untrusted as error:
        raise Untrusted(f"{file}: {error}") from error
    except Exception as error:  # whatever does not fit, of an edited file or one of another version
        problems = error.problems if isinstance(error, ConfigError) else [f"{type(error).__name__}: {error}"]
        said = " ".join("; ".join(problems).split())
        raise WeightsError(
            f"{file}: what it says of itself does not fit this version of the project: {said[:300]}"
        ) from error
    return task.eval(), config, metadata


def check_trusted(config: Config, *, trust: Trust) -> None:
    """Raise `Untrusted` if the network is built by code that is neither of this project nor of torch."""
    found = foreign({"model": {"network": getattr(config.model, "network", None)}}, trust)
    if not found:
        return
    code = dict.fromkeys(one.value for one in found if one.is_code)
    what = f"by {' and '.join(code)}, code that the file names and does not hold"
    if not code:
        what = f"with {' and '.join(f'{one.key}={one.value}' for one in found)}, which the file does not hold"
    raise Untrusted(
        f"its network is built {what}; if you trust where it comes from, load it with trust=True (--trust)"
    )
