"""What we use of Lightning, Hydra and Python without their promise: a test fails by name where one changes.

Versions that we were written against: lightning 2.6.6, hydra-core 1.3.8.
"""

import inspect
import threading
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.utils import JobReturn, JobStatus
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stagetune import seams
from stagetune.seams import FitLoop

BATCHES = 3


class Module(LightningModule):
    """A weight that is trained on its own square, and validated."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.validated_after: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        self.log("from_training", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated_after.append(self.trainer.global_step)
        self.log("from_validation", torch.tensor(2.0))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(
    tmp_path: Path, *callbacks: Callback, ckpt_path: Path | None = None, **settings: Any
) -> tuple[Module, Trainer]:
    """Three batches an epoch, two epochs unless they are said."""
    module = Module()
    trainer = Trainer(
        **{"max_epochs": 2, **settings}, accelerator="cpu", callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    data = torch.arange(BATCHES, dtype=torch.float32)[:, None]
    trainer.fit(module, DataLoader(data), DataLoader(data[:1]), ckpt_path=ckpt_path, weights_only=True)
    return module, trainer


class At(Callback):
    """Calls a function in one hook of a callback."""

    def __init__(self, hook: str, call: Callable[[Trainer], object]) -> None:
        self.found: list[Any] = []
        setattr(self, hook, lambda trainer, *_, **__: self.found.append(call(trainer)))


def position(loop: FitLoop) -> tuple[Any, ...]:
    return loop.epoch, loop.is_within_epoch, loop.batches, loop.batch_index, loop.batches_done_in_all


def test_fit_loop_knows_epoch_and_batches(tmp_path: Path) -> None:
    during = At("on_train_batch_start", lambda trainer: position(FitLoop(trainer)))
    at_end = lambda trainer: (FitLoop(trainer).batches_done, FitLoop(trainer).last_batch_in_all)  # noqa: E731
    after = At("on_train_epoch_end", at_end)
    _, trainer = fit(tmp_path, during, after)
    # Lightning counts a batch as ready before it says that it starts
    assert during.found == [(e, True, BATCHES, i, e * BATCHES + i + 1) for e in range(2) for i in range(BATCHES)]
    assert after.found == [(BATCHES, 2), (BATCHES, 5)]
    assert FitLoop(trainer).epoch == 2


def test_fit_loop_limits_are_the_trainers_arguments_and_can_be_set(tmp_path: Path) -> None:
    assert FitLoop(Trainer(max_epochs=7, max_steps=9)).limits == (7, 9)
    trainer = Trainer(max_epochs=7)
    FitLoop(trainer).limit(3, 11)
    assert (trainer.max_epochs, trainer.max_steps) == (3, 11)
    _, trainer = fit(tmp_path, At("on_train_epoch_end", lambda trainer: FitLoop(trainer).end_after(1)))
    assert (trainer.current_epoch, trainer.global_step) == (1, BATCHES)


def test_fit_loop_ends_an_epoch_with_the_batch_that_is_called_last(tmp_path: Path) -> None:
    def call_last(trainer: Trainer) -> None:
        if FitLoop(trainer).batch_index == 1:
            FitLoop(trainer).call_batch_last()

    _, trainer = fit(tmp_path, At("on_train_batch_start", call_last), At("on_train_batch_end", call_last))
    assert trainer.global_step == 2 * 2


def test_fit_loop_validates_after_a_batch_and_then_as_it_was_set(tmp_path: Path) -> None:
    kept: list[tuple[Any, Any]] = []

    def validate(trainer: Trainer) -> None:
        loop = FitLoop(trainer)
        if trainer.global_step == 1:
            kept.append(loop.validate_after_batch())
        elif kept:
            loop.validate_as_set(kept.pop())

    module, _ = fit(tmp_path, At("on_train_batch_end", validate), max_epochs=1)
    assert module.validated_after == [1, BATCHES]


@pytest.mark.parametrize(
    ("hook", "settings", "says"),
    [
        ("on_train_epoch_start", {}, {"is_restarted_at_epoch_start"}),
        ("on_train_batch_end", {}, {"is_restarted_within_epoch", "is_restarted_after_batch"}),
        ("on_train_epoch_end", {}, set()),
        ("on_train_epoch_end", {"max_steps": 6}, {"is_restarted_at_epoch_end"}),
    ],
)
def test_fit_loop_says_where_it_was_restarted(
    hook: str, settings: dict[str, Any], says: set[str], tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    once = At(hook, lambda trainer: trainer.save_checkpoint(path) if not path.exists() else None)
    fit(tmp_path, once, **settings)
    names = ("is_restarted_at_epoch_start", "is_restarted_within_epoch", "is_restarted_at_epoch_end",
             "is_restarted_after_batch")  # fmt: skip
    at = At("on_train_start", lambda trainer: {name for name in names if getattr(FitLoop(trainer), name)})
    fit(tmp_path, at, ckpt_path=path, **settings)
    assert at.found == [says]


def test_fit_loop_does_what_a_restart_has_left_undone() -> None:
    """The parts that only a restart uses; tests/test_neighbours.py restarts at every point."""
    loop = Trainer(max_epochs=1).fit_loop
    for owner, names in (
        (loop, ("on_advance_end", "reset_restart_stage", "_data_fetcher")),
        (loop.epoch_loop, ("_should_check_val_fx", "reset_restart_stage", "restarting", "val_loop")),
        (loop.epoch_loop.val_loop, ("run", "restarting")),
        (loop.epoch_progress, ("increment_completed", "current", "total")),
    ):
        assert not [name for name in names if not hasattr(owner, name)]


def test_what_a_validation_logs_is_told_from_what_training_logged(tmp_path: Path) -> None:
    at = At("on_validation_end", lambda trainer: set(seams.measured_now(trainer)))
    _, trainer = fit(tmp_path, at, num_sanity_val_steps=0)
    assert at.found == [{"from_validation"}] * 2
    assert {"from_training", "from_validation"} <= set(trainer.callback_metrics)


def test_a_callback_may_move_itself_in_the_trainers_list() -> None:
    first, second = Callback(), Callback()
    trainer = Trainer(callbacks=[first, second], logger=False, enable_checkpointing=False)
    callbacks = seams.callbacks_of(trainer)
    callbacks.remove(second)
    callbacks.insert(0, second)
    assert trainer.callbacks.index(second) < trainer.callbacks.index(first)  # type: ignore[attr-defined]


def test_training_steps_the_scheduler_that_is_set(tmp_path: Path) -> None:
    from lightning.pytorch.utilities.types import LRSchedulerConfig

    def set_it(trainer: Trainer) -> None:
        scheduler = torch.optim.lr_scheduler.ExponentialLR(trainer.optimizers[0], 0.5)
        seams.set_lr_scheduler(trainer, LRSchedulerConfig(scheduler, interval="step"))

    _, trainer = fit(tmp_path, At("on_train_start", set_it), max_epochs=1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**BATCHES)


def test_ddp_can_be_asked_and_told_again_what_trains() -> None:
    told = Trainer(strategy=DDPStrategy(find_unused_parameters=True), accelerator="cpu", devices=2)
    assert seams.allows_unused(told)
    assert not seams.allows_unused(Trainer(strategy="ddp", accelerator="cpu", devices=2))
    assert not inspect.signature(DDPStrategy.configure_ddp).parameters.keys() - {"self"}
    assert {"model", "lightning_module"} <= set(dir(told.strategy))


def clipped_in_bf16(tmp_path: Path, start: dict[str, Tensor], **settings: Any) -> Module:
    """Three steps of a fused optimizer whose gradients are clipped."""
    module = Module()
    module.layer.load_state_dict(start)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, fused=True)
    module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
    trainer = Trainer(
        **settings, gradient_clip_val=0.5, max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, DataLoader(torch.arange(1.0, 1 + BATCHES)[:, None]))
    assert trainer.precision == "bf16-mixed"
    return module


def test_bf16_clips_for_a_fused_optimizer_as_a_plain_loop_does(tmp_path: Path) -> None:
    layer = nn.Linear(1, 1)
    start = {name: value.clone() for name, value in layer.state_dict().items()}
    module = clipped_in_bf16(tmp_path, start, plugins=seams.clipping_bf16("cpu"))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
    norms = []
    for value in torch.arange(1.0, 1 + BATCHES):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = layer(value[None, None]).square().mean()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(layer.parameters(), 0.5)))
        optimizer.step()
    assert max(norms) > 0.5  # else nothing was clipped
    assert all(torch.equal(module.layer.state_dict()[name], value) for name, value in layer.state_dict().items())


def test_bf16_of_lightnings_own_does_not_clip_for_a_fused_optimizer(tmp_path: Path) -> None:
    """Where it does, `clipping_bf16` can go."""
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        clipped_in_bf16(tmp_path, nn.Linear(1, 1).state_dict(), precision="bf16-mixed")


def test_a_sanity_check_can_be_played_and_ends() -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False)
    with seams.sanity_checking(trainer):
        assert trainer.sanity_checking
    assert not trainer.sanity_checking


def test_a_checkpoint_says_the_epochs_that_are_over_and_has_a_loaders_place(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    fit(
        tmp_path, At("on_train_batch_end", lambda trainer: trainer.global_step == 4 and trainer.save_checkpoint(path))
    )
    checkpoint = torch.load(path, weights_only=True)
    assert seams.epochs_in(checkpoint) == 1
    checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [1]
    seams.forget_loader(checkpoint)
    assert "combined_loader" not in checkpoint["loops"]["fit_loop"]["state_dict"]
    assert '"combined_loader"' in inspect.getsource(type(Trainer(max_epochs=1).fit_loop).on_save_checkpoint)


def test_what_a_job_ended_with_is_had_without_words_of_hydras(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("why")
    job = JobReturn(overrides=["a=1"], status=JobStatus.FAILED)
    job.return_value = error
    assert seams.error_of(job) is error
    assert capsys.readouterr() == ("", "")


def test_hydras_compose_is_that_of_the_application_whose_settings_are_asked_for(tmp_path: Path) -> None:
    """Another application's Hydra is set aside, and is there again afterwards."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.yaml").write_text(f"of: {name}\n")
    ours = str(tmp_path / "ours")
    with seams.composing(ours) as compose:
        assert compose("x").of == "ours"
        with seams.composing(ours) as again:
            assert again("x").of == "ours"
    with initialize_config_dir(str(tmp_path / "theirs"), **seams.version_base()):
        with seams.composing(ours) as compose:
            assert compose("x").of == "ours"
        assert hydra.compose("x").of == "theirs"


def test_overrides_are_told_from_flags_and_what_belongs_to_them() -> None:
    words = ["--config-dir", "somewhere", "-cn", "main", "--multirun", "a=1", "+b=2"]
    assert seams.overrides_among(words) == ["a=1", "+b=2"]


def test_a_configuration_is_stored_once_by_its_name(tmp_path: Path) -> None:
    for content in ({"a": 1}, {"a": 2}):
        seams.store_once("of_this_test", content)
    (tmp_path / "x.yaml").write_text("defaults: [of_this_test, _self_]\n")
    with initialize_config_dir(str(tmp_path), **seams.version_base()):
        assert hydra.compose("x").a == 1


def test_hydra_is_of_the_version_whose_changes_are_written_down() -> None:
    assert hydra.__version__.startswith("1.3."), "read the notes in stagetune/seams.py and try them"
    assert seams.version_base() == {"version_base": "1.3"}


def test_a_queue_tells_what_it_could_not_send(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's `Queue._on_queue_feeder_error`: tests/test_lost.py has the loader's process that ends by it."""
    told: list[Any] = []
    monkeypatch.setattr(Queue, "_on_queue_feeder_error", staticmethod(lambda *what: told.append(what)))
    queue = get_context().Queue()
    queue.put(unsendable := threading.Lock())
    queue.close()
    queue.join_thread()
    ((error, what),) = told
    assert isinstance(error, TypeError)
    assert what is unsendable
