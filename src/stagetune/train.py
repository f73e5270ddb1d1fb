"""`stagetune train`, which is `python train.py`: Hydra composes a run or the jobs of a sweep, and they are run."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from stagetune.config.compose import (
    HYDRAS_OWN,
    UNCOMPOSABLE,
    check_own,
    explain,
    has_unread_train,
    is_one_at_a_time,
    register_schema,
    to_plain,
    with_own,
)
from stagetune.config.resume import is_setting, resumed, resumed_dir
from stagetune.config.validate import validate
from stagetune.errors import ConfigError, StagetuneError, show, shown
from stagetune.seams import overrides_among, version_base
from stagetune.shipped import CONF
from stagetune.sweep.job import run_job

was_composed: list[bool] = []  # Hydra has called us
kept_for_resume: list[str] = []  # settings of the command line that are for the run's own configuration


def train(arguments: Sequence[str]) -> None:
    """Run what the words of a command line ask for; ends the process where it fails."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand Hydra's errors to us instead of printing them
    register_schema()
    if has_unread_train():
        print("stagetune: conf/train.yaml is not read, ours always is; say it in conf/experiment/", file=sys.stderr)
    with shown():
        sys.argv[1:] = _prepared(arguments)
        try:
            main()
        except UNCOMPOSABLE as error:
            if was_composed and not isinstance(error, HYDRAS_OWN):  # so it is a fault of ours, or of somebody's part
                raise
            raise explain(error, overrides_among(sys.argv[1:])) from error


@hydra.main(**version_base(), config_path=str(CONF), config_name="train")
def main(composed: DictConfig) -> float | None:
    """What Hydra calls for a run, and for each job of a sweep in whichever process its launcher has for it."""
    was_composed.append(True)
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        is_alone = is_one_at_a_time(hydra_config)
        return run_job(validate(to_plain(composed)), run_dir, screen=None if is_alone else run_dir / "screen.txt")
    try:
        return _run(composed, run_dir)
    except StagetuneError as error:
        show(error)
        sys.exit(error.exit_code)


def _run(composed: DictConfig, run_dir: Path) -> float | None:
    values, overrides = to_plain(composed), HydraConfig.get().overrides.task
    if resume := values["resume"]:
        run_dir = Path(str(resume)).expanduser()
        config = resumed(run_dir, values, [*overrides, *kept_for_resume])
    else:
        try:
            check_own(HydraConfig.get())
            config = validate(values, overrides)
        except ConfigError:
            with suppress(OSError):  # a directory that was there before may hold something
                run_dir.rmdir()  # Hydra has made it already; nothing will come into it
            raise
    from stagetune.run import run_experiment  # imports torch; only now, so that errors above are instant

    return run_experiment(config, run_dir).score


def _prepared(arguments: Sequence[str]) -> list[str]:
    """The words for Hydra, which is told where the run's directory is where it may not make a new one."""
    words = with_own(arguments)
    if {"-m", "--multirun"} & set(words) and any(word.startswith("resume=") for word in words):
        raise StagetuneError("resume= goes on with one run; leave -m out")
    if run_dir := resumed_dir(words):
        kept_for_resume[:] = [word for word in words if is_setting(word)]
        words = [word for word in words if word not in kept_for_resume]
        words.insert(0, "hydra.run.dir='{}'".format(str(run_dir).replace("'", "\\'")))  # before any flags
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) > 0:
        nowhere = tempfile.mkdtemp()  # of several processes one has the directory
        atexit.register(shutil.rmtree, nowhere, ignore_errors=True)
        words = [f"hydra.run.dir={nowhere}", f"hydra.sweep.dir={nowhere}", *words]
    return words
