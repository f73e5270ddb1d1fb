"""`stagetune prune`: the model of a checkpoint with channels left out, fine-tuned for a while."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stagetune.config.pruned import place_of, pruned_config
from stagetune.errors import WeightsError
from stagetune.models.weights import file_weights
from stagetune.run import run_experiment

if TYPE_CHECKING:
    from stagetune.report.result import RunResult


def prune_run(
    checkpoint: str | os.PathLike[str],
    ratio: float,
    overrides: Sequence[str] = (),
    *,
    run_dir: str | os.PathLike[str] | None = None,
    trust: bool = False,
) -> "RunResult":
    """Run what the checkpoint's configuration says once more, on its pruned network.

    Args:
        checkpoint: of a run, or the run's directory.
        ratio: the share of channels that is left out.
        overrides: words of a command line that say the configuration differently.
        run_dir: where to; by default what hydra.run.dir=... among the words says, or else outputs/<name of the
            run>-pruned/<date_time>.
        trust: whether code that the checkpoint names and does not hold may be imported and run.

    Returns:
        The result of the run; its `pruning` says what was gained and lost.

    Raises:
        WeightsError: for a file that is no checkpoint of this project, and without `trust` for one that names code.
        StagetuneError: as a run does.
    """
    weights = file_weights(os.fspath(checkpoint))
    if not weights.config:
        raise WeightsError(f"{checkpoint}: holds weights alone, and no configuration to go on with; give a run")
    config = pruned_config(weights.config, os.fspath(checkpoint), ratio, overrides, trust=trust)
    return run_experiment(config, run_dir or place_of(overrides))
