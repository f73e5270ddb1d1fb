"""Every use of what Lightning, Hydra and Python keep to themselves, each with its reason.

Nothing else in the project touches these (tests/test_layout.py says so), and tests/test_seams.py fails by name where
one of them changes. Written against lightning 2.6.6 and hydra-core 1.3.8. Torch is not imported here.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.queues import Queue
from typing import Any

_one_at_a_time = threading.RLock()  # Hydra is one for all threads

# ---------------------------------------------------------------------------------------------------------- Lightning


class FitLoop:
    """Where training stands and where it ends, as a trainer's loops know it.

    Lightning says the epoch too late for a restart, cannot end a stage of steps within an epoch, and after a restart
    skips or repeats parts of one (findings/). All of that is mended through its loops, for which it has no public
    names. `trainer.fit_loop` and what hangs on it are read and set here alone.

    Args:
        trainer: a `lightning.pytorch.Trainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer, self._loop, self._batches = trainer, trainer.fit_loop, trainer.fit_loop.epoch_loop
        self._epochs: Any = self._loop.epoch_progress

    @property
    def epoch(self) -> int:
        """The epoch that is trained or, after one, the next. A restart may leave `current_epoch` one too low."""
        return int(self._epochs.current.processed)

    @property
    def is_within_epoch(self) -> bool:
        return bool(self._epochs.current.ready > self._epochs.current.processed)

    @property
    def batches(self) -> float:
        """The batches of a whole epoch; infinity where the data has no length."""
        return self._loop.max_batches  # type: ignore[no-any-return]

    @property
    def batches_done(self) -> int:
        """The batches of the current epoch that have been trained, or of the one before where none has begun."""
        return int(self._batches.batch_progress.current.ready)

    @property
    def batches_done_in_all(self) -> int:
        return int(self._batches.batch_progress.total.ready)

    @property
    def batch_index(self) -> int:
        """The batch that is trained, counted from 0 in its epoch."""
        return int(self._batches.batch_idx)

    @property
    def last_batch_in_all(self) -> int:
        """The batch that was trained last, counted from 0 over all epochs."""
        return int(self._loop.total_batch_idx)

    @property
    def limits(self) -> tuple[int | None, int]:
        """The most epochs and the most optimizer steps, -1 for no limit; Trainer has them as arguments only."""
        return self._loop.max_epochs, self._batches.max_steps

    def limit(self, epochs: int | None, steps: int) -> None:
        self._loop.max_epochs, self._batches.max_steps = epochs, steps

    def end_after(self, epochs: int) -> None:
        """Let no epoch begin after so many. `should_stop` belongs to others, and `min_epochs` overrules it."""
        self._loop.max_epochs = epochs

    def call_batch_last(self) -> None:
        """Let the batch that is trained be the last of its epoch, as if the loader ended there."""
        self._batches.batch_progress.is_last_batch = True

    def validate_after_batch(self) -> tuple[Any, Any]:
        """Let validation come after the batch that is trained, whatever the trainer's settings; returns these."""
        trainer = self._trainer
        settings = trainer.val_check_batch, trainer._val_check_time_interval
        trainer.val_check_batch, trainer._val_check_time_interval = 1, None
        return settings

    def validate_as_set(self, settings: tuple[Any, Any]) -> None:
        """Undo `validate_after_batch`."""
        self._trainer.val_check_batch, self._trainer._val_check_time_interval = settings

    # what a restart has left undone

    @property
    def is_restarted_at_epoch_start(self) -> bool:
        return bool(self._loop.restarted_on_epoch_start)

    @property
    def is_restarted_within_epoch(self) -> bool:
        return bool(self._loop.restarted_mid_epoch)

    @property
    def is_restarted_at_epoch_end(self) -> bool:
        return bool(self._loop.restarted_on_epoch_end)

    @property
    def is_restarted_after_batch(self) -> bool:
        """Whether it was restarted between a batch and the validation that may follow it."""
        return bool(self._batches.restarted_on_train_batch_end)

    def forget_restart_of_batches(self) -> None:
        """At the start of an epoch the progress of its batches is still that of the epoch before."""
        self._batches.restarting = False
        self._batches.reset_restart_stage()

    def begin_epoch_anew(self) -> None:
        """Let the next epoch begin as any other."""
        self.forget_restart_of_batches()
        self._loop.reset_restart_stage()

    def reopen_epoch(self) -> None:
        """Let the epoch go on that Lightning has counted as over, since all of its batches were."""
        for counts in (self._epochs.current, self._epochs.total):
            counts.processed -= 1
            counts.completed -= 1

    def complete_epoch(self) -> None:
        """Count the last epoch as completed, where the checkpoint was written before Lightning did."""
        if self._epochs.current.completed < self._epochs.current.processed:
            self._epochs.increment_completed()

    def validate_if_due(self) -> None:
        """Run the validation that is due after the last batch."""
        if self._batches._should_check_val_fx(self._loop._data_fetcher):
            self._trainer.validating = True
            self._batches.val_loop.restarting = False
            self._batches.val_loop.run()
            self._trainer.training = True

    def end_epoch(self) -> None:
        """Run the end of an epoch that a restart has left out."""
        self._loop.on_advance_end()


def measured_now(trainer: Any) -> dict[str, Any]:
    """What the running validation has logged; `callback_metrics` has what training logged beside it."""
    measured: dict[str, Any] = trainer._results.metrics(on_step=False)["callback"] if trainer._results else {}
    return measured


def callbacks_of(trainer: Any) -> list[Any]:
    """The trainer's own list, in which a callback may move itself; Trainer only takes it as an argument."""
    return trainer.callbacks  # type: ignore[no-any-return]


def set_lr_scheduler(trainer: Any, config: Any) -> None:
    """Let training step this learning-rate scheduler; Lightning takes one only from `configure_optimizers`."""
    trainer.strategy.lr_scheduler_configs = [config]


def wrap_again(trainer: Any) -> None:
    """Let DDP know what trains now: its reducer knows only what was trainable when it wrapped the module."""
    trainer.strategy.model = trainer.strategy.lightning_module
    trainer.strategy.configure_ddp()


def allows_unused(trainer: Any) -> bool:
    """Whether DDP was told that not every parameter is used in each step."""
    given = {key for key, on in trainer.strategy._ddp_kwargs.items() if on}
    return bool(given & {"find_unused_parameters", "static_graph"})


@contextmanager
def sanity_checking(trainer: Any) -> Iterator[None]:
    """Within, the trainer says that it is in a sanity check, in which nothing that is logged counts."""
    before, trainer.sanity_checking = trainer.state.stage, True
    try:
        yield
    finally:
        trainer.state.stage = before


def clipping_bf16(device: str) -> Any:
    """Lightning's plugin for bf16 that also clips the gradients of a fused optimizer.

    Its own refuses them in fp16 and bf16 alike, since a fused optimizer unscales within its step; in bf16 nothing is
    scaled, so that its base class's way of clipping is right.

    Args:
        device: the type of the device that computes: cpu, cuda or mps.
    """
    from lightning.pytorch.plugins.precision import MixedPrecision, Precision

    class ClippingBf16(MixedPrecision):
        clip_gradients = Precision.clip_gradients

    return ClippingBf16("bf16-mixed", device)


def epochs_in(checkpoint: Mapping[str, Any]) -> int:
    """The epochs that were over where a checkpoint was written; its `epoch` counts one more within an epoch."""
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])


def forget_loader(checkpoint: Mapping[str, Any]) -> None:
    """Let a loader that can go on begin anew: it would do so in the epoch that was cut there."""
    checkpoint["loops"]["fit_loop"]["state_dict"].pop("combined_loader", None)


# -------------------------------------------------------------------------------------------------------------- Hydra
#
# Hydra lives on as hydra-ecosystem/hydra. What its 1.4 (1.4.0rc3 was read and tried) changes for us:
#
# - Plugins are instantiated by their class, not recursively and by a whitelist of Hydra's own: ours need nothing.
#   What a sweeper or launcher holds below `_target_` is no longer built; ours holds plain values. They may also be
#   found by the entry point hydra.plugins; the namespace package hydra_plugins stays. A job may not choose another
#   launcher or sweeper than its sweep. A job's error comes back pickled: one that does not survive that becomes a
#   RuntimeError, which is why `ConfigError` says how it is made.
# - `instantiate` takes a whitelist of targets (`execution_whitelist`), and will need one in 1.5. We do not call it:
#   targets are looked up and built by targets.py, which no whitelist binds; what may be named is for it to say.
# - Tuples of Python become tuples again in omegaconf 2.4, no longer lists. Neither YAML nor the command line has
#   any, and no default of ours is one: a tuple in the schema would fail `isinstance(value, list)` in
#   config/resume.py.
# - `version_base` selects nothing any more, warns where it is given, and goes in 1.5; in 1.3, leaving it out means
#   1.1.
# - Storing a configuration again under its name warns, and is an error in 1.5.
# - hydra-core 1.4 needs omegaconf>=2.4.1: both bounds in pyproject.toml move. `list[0]` is a key then, beside
#   `list.0`; config/compose.py and config/resume.py split at dots alone.


def version_base() -> dict[str, str]:
    """What `hydra.main` and `initialize_config_dir` are told of the Hydra that we were written for."""
    import hydra

    return {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def error_of(job: Any) -> Any:
    """What a job of a launcher ended with; the public `return_value` prints words of Hydra's and raises it."""
    return job._return_value


@contextmanager
def composing(conf: str) -> Iterator[Callable[..., Any]]:
    """Hydra's `compose` over the settings in `conf`, one thread at a time.

    That of the application that runs, if these are its settings: it may have been told of more places. Any other
    application, or notebook, that has started Hydra keeps its own, which is set aside meanwhile.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with _one_at_a_time:
        running = GlobalHydra.instance().hydra
        places = running.config_loader.get_search_path().get_path() if running else []
        if any(place.provider == "main" and place.path in (conf, f"file://{conf}") for place in places):
            yield compose
            return
        GlobalHydra.instance().hydra = None
        try:
            with initialize_config_dir(conf, **version_base()):
                yield compose
        finally:
            GlobalHydra.instance().hydra = running


def overrides_among(arguments: Sequence[str]) -> list[str]:
    """The overrides among the words of a command line, without Hydra's flags and what belongs to them."""
    from hydra._internal.utils import get_args_parser

    return list(get_args_parser().parse_args(list(arguments)).overrides)


def store_once(name: str, content: Any) -> None:
    """Make a configuration known by name. Hydra 1.4 warns where one is stored again, 1.5 will refuse."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    if f"{name}.yaml" not in store.repo:
        store.store(name, content)


# ------------------------------------------------------------------------------------------------------------- Python


def end_where_nothing_can_be_sent(worker: int) -> None:
    """Let a loader's process end, as by a bus error, where it cannot send a batch, such as for a full /dev/shm.

    Python prints what its queue cannot send, and drops it: the process that asked for the batch would wait for ever.

    Args:
        worker: its number, which torch's DataLoader says to a `worker_init_fn`.
    """

    def end(error: Exception, batch: Any) -> None:
        os.kill(os.getpid(), signal.SIGBUS if hasattr(signal, "SIGBUS") else signal.SIGTERM)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]
