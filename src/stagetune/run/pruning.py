"""A trial of a search that is worse after a stage than half of the others were is not worth its next stage."""

from pathlib import Path

import optuna
from lightning.pytorch import Callback, LightningModule, Trainer

from stagetune.errors import Pruned
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage

FILE, NAME = "study.db", "study"
STARTUP = 4  # trials before the first is pruned: a median of fewer says little


def open_study(folder: Path, *, higher_is_better: bool | None = None) -> optuna.Study:
    """The study in `folder`; it is created where `higher_is_better` is said."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if (folder / FILE).is_symlink():
        (folder / FILE).unlink()  # it would be written elsewhere
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{folder / FILE}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    # a stage that is worse than the median of the same stage so far is the last of its trial
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
    if higher_is_better is None:
        return optuna.load_study(study_name=NAME, storage=storage, pruner=pruner)
    study = optuna.create_study(
        study_name=NAME, storage=storage, pruner=pruner, load_if_exists=True,
        direction="maximize" if higher_is_better else "minimize",
    )  # fmt: skip
    # another worker's running trials count as bad ones, so that two do not try the same
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials), constant_liar=True)
    return study


class StagePruning(Callback):
    """Reports the monitored metric after each stage to the study in `folder`; raises `Pruned` where it says so."""

    def __init__(self, unfreezing: StagedUnfreezing, monitor: str, folder: Path, number: int) -> None:
        self.unfreezing, self.monitor = unfreezing, monitor
        self._folder, self._number = folder, number

    def on_stage_end(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        if self.monitor not in trainer.callback_metrics:  # nothing is measured yet as a run goes on
            return
        value = float(trainer.callback_metrics[self.monitor])
        is_worse = trainer.is_global_zero and self._report(stage.index, value)
        if trainer.strategy.broadcast(is_worse) and stage is not self.unfreezing.plan.stages[-1]:
            raise Pruned(
                f"trial {self._number} ends after stage {stage.name}: {self.monitor} {value:.4f} is worse than the "
                "median of the trials so far"
            )

    def _report(self, stage: int, value: float) -> bool:
        """Whether the study would end the trial."""
        study = open_study(self._folder)
        # the trial was asked for by the sweeper, perhaps in another process
        storage, of = study._storage, study._study_id
        trial = optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(of, self._number))
        trial.report(value, stage)
        return trial.should_prune()
