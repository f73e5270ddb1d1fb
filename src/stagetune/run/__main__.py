"""One of a run's processes: `python -m stagetune.run CONFIG RUN_DIR [--resume]`, started by `processes.start`."""

import sys
from pathlib import Path

import yaml
from torch import distributed
from torch.distributed.elastic.multiprocessing.errors import record

from stagetune.config.validate import validate
from stagetune.errors import StagetuneError
from stagetune.run import run_experiment


@record  # hands the error to the process that started this one
def main() -> None:
    config, run_dir = validate(yaml.safe_load(Path(sys.argv[1]).read_text())), Path(sys.argv[2])
    try:
        run_experiment(config, run_dir, resume="--resume" in sys.argv)
    except StagetuneError:
        sys.excepthook = lambda *_: None  # it is shown once, by the process that started this one
        raise
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
