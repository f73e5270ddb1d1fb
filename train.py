"""Run an experiment: `python train.py +experiment=siamese_staged`; `--help` lists every setting."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from stagetune.config.compose import explain, register_schema, to_plain
from stagetune.config.validate import validate
from stagetune.errors import shown


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(composed: DictConfig) -> float | None:
    with shown():
        config = validate(to_plain(composed))
        from stagetune.run import run_experiment  # imports torch; only now, so that errors above are instant

        result = run_experiment(config, Path(HydraConfig.get().runtime.output_dir))
        return result.score


if __name__ == "__main__":
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # hand Hydra's errors to us instead of printing them
    register_schema()
    with shown():
        try:
            main()
        except (HydraException, OmegaConfBaseException) as error:
            overrides = [word for word in sys.argv[1:] if "=" in word and not word.startswith("--")]
            raise explain(error, overrides) from error
