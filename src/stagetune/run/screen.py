"""What a person sees of a run: a few calm lines and one progress bar that names the stage."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from stagetune.errors import StagetuneError, show
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.plan import PlannedStage
from stagetune.schedule.table import count_words
from stagetune.seams import FitLoop
from stagetune.streams import drop_output
from stagetune.visible import visible, visible_name


class _Console(Console):
    def on_broken_pipe(self) -> None:  # rich would end the process
        drop_output()


PATIENCE = 2.0  # seconds without a word


class Screen:
    """Lines with a left column that says what they are about."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = _Console(highlight=False, soft_wrap=True, quiet=quiet)

    def line(self, about: str, text: str) -> None:
        first, *rest = visible(text).split("\n")
        lines = "\n".join([first, *(f"{'':<10}{more}" for more in rest)])
        try:  # at once: a notebook shows each apart
            self.console.print(Text.assemble((f"{about:<9}", "bold"), " ", lines))
        except OSError as error:  # a disk is full: no reason to lose a run
            drop_output()
            show(StagetuneError(f"what the run says cannot be printed ({error.strerror}); it goes on without"))

    @contextmanager
    def warned(self, what: str) -> Iterator[None]:
        """Say what fails within, and go on: a run that is trained and tested is not lost by it."""
        try:
            yield
        except Exception as error:
            said = " ".join(str(error).split())
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {said}"
            self.line("warning", f"{what}: {reason}")

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Within, whoever calls what is given is one further of `total`.

        What takes longer is shown: by a bar on a terminal, else by one line that says what goes on.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        task, start, is_shown = bar.add_task(what, total=total), time.monotonic(), False

        def advance() -> None:
            nonlocal is_shown
            bar.advance(task)
            if not is_shown and time.monotonic() - start > PATIENCE:
                is_shown = True
                if bar.disable:
                    self.line("", f"{what}: {bar.tasks[0].completed:,.0f} of {total:,} so far")
                else:
                    bar.start()

        try:
            yield advance
        finally:
            bar.stop()


LOUD = ("lightning.pytorch", "lightning.fabric")
MEANT_SO = (  # what Lightning, torch and matplotlib warn of and what is meant to be so
    ".*does not have many workers.*",
    ".*modules in eval mode.*",  # frozen blocks are
    ".*exists and is not empty.*",
    ".*GPU available but not used.*",
    ".*number of training batches.*smaller than the logging interval.*",
    ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
    ".*lr_scheduler.step\\(\\)` before `optimizer.step.*",  # a stage's scheduler is built between two steps
    ".*dataloader is not resumable.*",  # ours goes on where it was
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # what is logged is of all processes already
    ".*functional.all_gather is deprecated.*",
    ".*srun.*command is available.*",
    ".*Glyph .* missing from font.*",  # of a class name in a picture
)


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within, libraries do not speak of what is meant to be so."""
    levels = {name: logging.getLogger(name).level for name in LOUD}
    with warnings.catch_warnings():
        for name in LOUD:
            logging.getLogger(name).setLevel(logging.ERROR)
        for message in MEANT_SO:
            warnings.filterwarnings("ignore", message)
        warnings.filterwarnings("ignore", module="PIL")  # of files, of which what matters is said by name
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


class StageLines(Callback):
    """A line at each change of stage, and a progress bar in between where the output is a terminal."""

    def __init__(self, screen: Screen, unfreezing: StagedUnfreezing, monitor: str) -> None:
        self.screen, self.unfreezing, self.monitor = screen, unfreezing, monitor
        self._progress: Progress | None = None
        self._task: Any = None
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.screen.console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self.screen.console, transient=True)
            batches, epochs = int(trainer.num_training_batches), self.unfreezing.plan.epochs
            done = FitLoop(trainer).batches_done_in_all
            total = batches * epochs if epochs else None
            self._task = self._progress.add_task(self._description(trainer), total=total, completed=done)
            self._progress.start()
        self._start = time.monotonic()
        if self.unfreezing.is_within_stage:
            stage = self.unfreezing.stage
            self.screen.line(self._number(stage), f"{stage.name}: goes on in epoch {trainer.current_epoch}")

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        self._start = time.monotonic()
        self.screen.line(self._number(stage), self._opening(stage))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress:
            self._progress.update(self._task, description=self._description(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self._progress:
            self._progress.advance(self._task)

    def on_stage_end(self, trainer: Trainer, pl_module: LightningModule, stage: PlannedStage) -> None:
        if self.monitor in trainer.callback_metrics:  # not where a new schedule has the stage over as the run goes on
            value = float(trainer.callback_metrics[self.monitor])
            self.screen.line("", f"{self.monitor} {value:.4f} after {time.monotonic() - self._start:.0f} s")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _number(self, stage: PlannedStage) -> str:
        return f"stage {stage.index + 1}/{len(self.unfreezing.plan.stages)}"

    def _opening(self, stage: PlannedStage) -> str:
        before = set(self.unfreezing.plan.stages[stage.index - 1].open) if stage.index else set()
        opened, closed = (self._blocks_of(names) for names in (set(stage.open) - before, before - set(stage.open)))
        changes = [f"unfroze {', '.join(opened)}"] if opened else []
        changes += [f"froze {', '.join(closed)}"] if closed else []
        said = "; ".join(changes or ["as before"])
        return f"{stage.name}: {said}; {count_words(stage.trainable_parameters)} parameters train"

    def _blocks_of(self, names: Set[str]) -> list[str]:
        """The blocks that the parameters belong to, in forward order; one of which not all are named is marked."""
        found: dict[str, bool] = {}
        for group in self.unfreezing.plan.groups:
            inside = [name in names for name in group.parameters]
            if any(inside) or group.block in found:
                found[group.block] = found.get(group.block, True) and all(inside)
        partly = {g.block for g in self.unfreezing.plan.groups if not any(name in names for name in g.parameters)}
        return [block if whole and block not in partly else f"part of {block}" for block, whole in found.items()]

    def _description(self, trainer: Trainer) -> str:
        epochs = self.unfreezing.plan.epochs
        last = f" (of 0 to {epochs - 1})" if epochs else ""
        text = f"{visible_name(self.unfreezing.stage.name)}, epoch {trainer.current_epoch}{last}"
        value = trainer.callback_metrics.get(self.monitor)
        return text if value is None else f"{text}, {self.monitor} {float(value):.4f}"
