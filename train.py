"""Run an experiment: `python train.py +experiment=siamese_staged`; `--help` lists every setting."""

import atexit
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from stagetune.config.compose import explain, register_schema, to_plain
from stagetune.config.resume import check_run, is_setting, resumed
from stagetune.config.validate import validate
from stagetune.errors import ConfigError, StagetuneError, show, shown
from stagetune.sweep.job import run_job

kept_for_resume: list[str] = []


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> float | None:
    hydra_config = HydraConfig.get()
    run_dir = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        is_alone = hydra_config.launcher._target_.endswith("BasicLauncher")
        return run_job(validate(to_plain(composed)), run_dir, screen=None if is_alone else run_dir / "screen.txt")
    try:
        return run(composed, run_dir)
    except StagetuneError as error:
        show(error)
        sys.exit(1)


def run(composed: DictConfig, run_dir: Path) -> float | None:
    values = to_plain(composed)
    if resume := values["resume"]:
        run_dir = Path(str(resume)).expanduser()
        config = resumed(run_dir, values, [*HydraConfig.get().overrides.task, *kept_for_resume])
    else:
        try:
            config = validate(values, HydraConfig.get().overrides.task)
        except ConfigError:
            with suppress(OSError):  # a directory that was there before may hold something
                run_dir.rmdir()  # Hydra has made it already; nothing will come into it
            raise
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and config.trainer.get("strategy") != "ddp":
        raise ConfigError(
            [f"{os.environ['WORLD_SIZE']} processes were started, but the run wants one; add trainer=ddp"]
        )
    from stagetune.run import run_experiment  # imports torch; only now, so that errors above are instant

    return run_experiment(config, run_dir, resume=bool(resume)).score


def prepare_arguments() -> None:
    """Tell Hydra where the run's directory is: a resumed run has one, and of several processes one writes it."""
    for word in sys.argv[1:]:
        if word.startswith("resume="):
            if {"-m", "--multirun"} & set(sys.argv):
                raise StagetuneError("resume= goes on with one run; leave -m out")
            run_dir = word.removeprefix("resume=")
            check_run(Path(run_dir.strip("'\"")).expanduser())
            # single settings are for the run's own configuration, Hydra composes another one
            kept_for_resume.extend(other for other in sys.argv[1:] if is_setting(other))
            sys.argv = [other for other in sys.argv if other not in kept_for_resume]
            sys.argv.append(f"hydra.run.dir={run_dir}")
            break
    if int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", 0))) > 0:
        nowhere = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, nowhere, ignore_errors=True)
        sys.argv += [f"hydra.run.dir={nowhere}", f"hydra.sweep.dir={nowhere}"]


if __name__ == "__main__":
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand Hydra's errors to us instead of printing them
    register_schema()
    with shown():
        prepare_arguments()
        try:
            main()
        except (HydraException, OmegaConfBaseException) as error:
            overrides = [word for word in sys.argv[1:] if not word.startswith("-")]
            raise explain(error, overrides) from error
