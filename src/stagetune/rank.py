"""One of a run's processes: `python -m stagetune.rank CONFIG RUN_DIR [--resume]`, started by `run/processes`."""

import signal
import sys
from pathlib import Path


def main() -> None:
    """Run it as one of several; the error goes to the process that started this one, which shows it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the run hears it: no traceback of what is being imported
    import yaml
    from torch import distributed
    from torch.distributed.elastic.multiprocessing.errors import record

    from stagetune.config.validate import validate
    from stagetune.errors import StagetuneError
    from stagetune.interrupts import ignore_signals
    from stagetune.run import run_experiment

    @record
    def run() -> None:
        config, run_dir = validate(yaml.safe_load(Path(sys.argv[1]).read_text())), Path(sys.argv[2])
        try:
            run_experiment(config, run_dir, resume="--resume" in sys.argv)
        except StagetuneError:
            ignore_signals()  # the others' end is no news
            sys.excepthook = lambda *_: None
            raise
        distributed.destroy_process_group()

    run()


if __name__ == "__main__":
    main()
