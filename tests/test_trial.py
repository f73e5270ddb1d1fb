"""What would fail hours later fails before the first step, and the trial leaves no trace."""

import copy
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics import MeanMetric, MetricCollection

from programs import Program, Sampled, fit, images, loader
from ranks import together
from stagetune.errors import ScheduleError
from stagetune.schedule import callback as callback_module
from stagetune.schedule.spec import Schedule, Stage, Until

STAGES = [Stage("head", ["head"], lr=0.1), Stage("top", ["top"], lr=0.1), Stage("all", ["all"], lr=0.05)]
LR = "torch.optim.lr_scheduler"


@pytest.fixture(autouse=True)
def _loaders_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Sampled, "sample")


class Never(Callback):
    def on_train_batch_start(self, *_: Any) -> None:
        raise AssertionError("a step was begun")


class Pair(nn.Module):
    """Answers otherwise in training, as Inception does with its auxiliary outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.top = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, batch: Tensor) -> Any:
        hidden = self.top(self.mid(self.stem(batch)))
        return (hidden, hidden) if self.training else hidden


class Answers(Program):
    def __init__(self, takes_both: bool = False) -> None:
        super().__init__()
        self.backbone, self.takes_both = Pair(), takes_both

    def forward(self, batch: Tensor) -> Tensor:
        features = self.backbone(batch)
        if self.takes_both and isinstance(features, tuple):
            features = features[0]
        return self.head(features)  # type: ignore[no-any-return]


def test_a_network_that_answers_otherwise_in_training_is_found_before_the_first_step() -> None:
    with pytest.raises(
        ScheduleError,
        match=r"^stage top: in train mode the backbone gives a tuple, in eval mode a Tensor, and training_step fails",
    ):
        fit(Answers(), STAGES, Never())
    assert fit(Answers(takes_both=True), STAGES).global_step == 9
    head_only = Schedule(stages=STAGES[:1], leave_frozen=True)
    assert fit(Answers(), head_only).global_step == 3  # its backbone is in eval mode throughout


def test_a_step_that_fails_in_train_mode_alone_is_found() -> None:
    class Untrainable(Program):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            if self.backbone.mid.training:  # type: ignore[union-attr]
                raise NotImplementedError("no backward here")
            return super().training_step(batch, batch_idx)

    with pytest.raises(
        ScheduleError, match=r"stage all: training_step fails with what it opens in train mode \(NotImpl"
    ):
        fit(Untrainable(), STAGES, Never())


def test_what_two_samples_are_too_few_for_is_left_to_training() -> None:
    class Picky(Program):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            assert len(batch) == 8
            return super().training_step(batch, batch_idx)

    assert fit(Picky(), STAGES).global_step == 9

    class Endless(IterableDataset[Tensor]):
        taken = 0

        def __iter__(self) -> Iterator[Tensor]:
            for image in images():
                Endless.taken += 1
                yield image

    assert fit(Answers(takes_both=True), STAGES, data=(DataLoader(Endless(), 8),)).global_step == 9
    assert Endless.taken == 3 * 24


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"_target_": f"{LR}.StepLR"}, r"stage all: lr_scheduler torch\.optim\.lr_scheduler\.StepLR: .*step_size"),
        (
            {"_target_": f"{LR}.StepLr", "step_size": 1},
            r"_target_=torch\.optim\.lr_scheduler\.StepLr: cannot be imported",
        ),
        (
            {"_target_": f"{LR}.CyclicLR", "base_lr": 0.1},
            "stage all: lr_scheduler .*CyclicLR: optimizer must support mom",
        ),
    ],
)
def test_the_last_stages_scheduler_is_built_before_the_first_step(spec: Any, message: str) -> None:
    class Plain(Program):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adagrad(self.parameters())

    with pytest.raises(ScheduleError, match=message):
        fit(Plain(), [*STAGES[:2], Stage("all", ["all"], lr=0.05, lr_scheduler=spec)], Never())


class Traced(Callback):
    """Sees much, logs nothing."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen = dict(trainer.logged_metrics)


@pytest.mark.parametrize("sanity", [0, 2])
def test_a_misspelt_metric_of_the_second_stage_is_found_before_the_first_step(sanity: int) -> None:
    stages = [STAGES[0], Stage("all", ["all"], until=Until("val_los", "min"), lr=0.1)]
    with pytest.raises(ScheduleError, match=r"stage all looks at val_los, measured are: train_loss, val_loss"):
        fit(Program(), stages, Never(), Traced(), num_sanity_val_steps=sanity)


class LogsMore(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("more", 1.0)


def test_a_metric_that_a_callback_logs_is_one_and_a_misspelt_one_beside_it_is_found_with_the_first_epoch() -> None:
    def stages(metric: str) -> list[Stage]:
        return [
            Stage("head", ["head"], epochs=3, lr=0.1),
            Stage("all", ["all"], until=Until(metric, "min", 1), lr=0.1),
        ]

    assert fit(Program(), stages("more"), LogsMore()).current_epoch == 5
    with pytest.raises(ScheduleError, match="stage all looks at mroe, measured are: more, train_loss, val_loss"):
        fit(Program(), stages("mroe"), LogsMore())


class Noted(Dataset[Tensor]):
    """Draws at random for each item it gives."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> Tensor:
        noise = torch.rand(()) + float(np.random.rand()) + random.random()
        return images()[i] + 0.01 * noise


class Eventful(Program):
    """With all that a step may touch: statistics, dropout, metrics, lists, counters, draws, buffers, gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        for name in ("stem", "mid", "top"):
            part = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))
            self.backbone.add_module(name, part)
        self.mean, self.several = MeanMetric(), MetricCollection([MeanMetric()], prefix="several_")
        self.outputs: list[Tensor] = []
        self.counts: dict[str, int] = {"steps": 0}
        self.register_buffer("queue", torch.zeros(4))
        self.record: list[Any] = []
        self.tally: Any = self.outputs  # a second name for the same list

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self(batch) - 1).square().mean() + 0.01 * torch.rand(()) * float(np.random.rand())
        self.outputs.append(loss.detach())
        self.counts["steps"] += 1
        self.queue += loss.detach()
        self.mean.update(loss.detach())
        self.several.update(loss.detach())
        assert self.tally is self.outputs
        self.log("train_mean", self.mean)
        self.log_dict(self.several, on_step=False, on_epoch=True)
        return loss

    def on_validation_epoch_end(self) -> None:
        self.record.append((len(self.outputs), dict(self.counts), self.queue.clone()))


def run(is_tried: bool, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[Any, ...]:
    with monkeypatch.context() as patched:
        if not is_tried:
            patched.setattr(callback_module, "try_stages", lambda *_: None)
        module = Eventful()
        before = [p.grad for p in module.parameters()]
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        logger = CSVLogger(folder, version=0, flush_logs_every_n_steps=1)
        watched = Schedule(
            stages=[*STAGES[:2], Stage("all", ["all"], until=Until(max_epochs=2), lr=0.05)], monitor="val_loss"
        )
        data = DataLoader(Noted(), 8, shuffle=True)
        trainer = fit(module, watched, data=(data, loader(8)), logger=logger, log_every_n_steps=1)
        assert len(before) == len(list(module.parameters()))
        metrics = (Path(logger.log_dir) / "metrics.csv").read_text()
        drawn = (torch.rand(()), float(np.random.rand()), random.random())
        return module.state_dict(), module.record, metrics, drawn, trainer.optimizers[0].state_dict()["state"]


def same(ours: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return torch.equal(ours, expected)
    if isinstance(expected, dict):
        return ours.keys() == expected.keys() and all(same(ours[key], value) for key, value in expected.items())
    if isinstance(expected, list | tuple):
        return len(ours) == len(expected) and all(map(same, ours, expected))
    return bool(ours == expected)


def test_a_run_with_and_without_the_trial_is_the_same_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = run(False, monkeypatch, tmp_path / "without")
    tried = run(True, monkeypatch, tmp_path / "tried")
    for ours, expected in zip(tried, without, strict=True):
        assert same(ours, expected)
    assert without[1][-1][1] == {"steps": 12}


def test_gradients_that_were_there_are_there_after_the_trial() -> None:
    class Keeps(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.grad = pl_module.head.weight.grad  # type: ignore[union-attr]

    class Accumulated(Program):
        def on_sanity_check_end(self) -> None: ...

    module, keeps = Accumulated(), Keeps()
    given = torch.ones_like(module.head.weight)  # type: ignore[arg-type]

    class Gives(Callback):
        def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.zero_grad = lambda *_, **__: None  # type: ignore[method-assign]
            pl_module.head.weight.grad = given  # type: ignore[union-attr]

    fit(module, STAGES, keeps, first=[Gives()])
    assert keeps.grad is given


def test_the_trials_peak_memory_is_below_that_of_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes that autograd keeps for backward."""
    kept: dict[str, int] = {}
    batches: list[int] = []

    class Sized(Program):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            batches.append(len(batch))
            total = 0

            def note(tensor: Tensor) -> Tensor:
                nonlocal total
                total += tensor.numel() * tensor.element_size()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = super().training_step(batch, batch_idx)
            where = "trial" if len(batch) == 2 else "stages"
            kept[where] = max(kept.get(where, 0), total)
            return loss

    fit(Sized(), STAGES)
    assert batches[:4] == [2] * 4  # in eval mode, then as each stage opens it
    assert set(batches[4:]) == {8}
    assert kept["trial"] < kept["stages"]


class Unused(Program):
    def __init__(self) -> None:
        super().__init__()
        self.backbone.spare = nn.Linear(4, 4)

    def forward(self, batch: Tensor) -> Tensor:
        backbone: Any = self.backbone
        return self.head(backbone.top(backbone.mid(backbone.stem(batch))))  # type: ignore[no-any-return]


def test_a_layer_that_is_never_used_is_named() -> None:
    with pytest.warns(
        UserWarning, match=r"stage all opens backbone\.spare\.weight and 1 more, which training_step never"
    ):
        assert fit(Unused(), STAGES).global_step == 9


def _ranks(strategy: str) -> str:
    try:
        fit(Unused(), STAGES, Never() if strategy == "ddp" else Callback(), strategy=strategy, devices=2)
    except ScheduleError as error:
        return str(error)
    return "trained"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "found"),
    [
        ("ddp", "stage all opens backbone.spare.weight and 1 more, which training_step never uses, and which several "
         "processes wait for; hold it with requires_grad_(False), or use strategy='ddp_find_unused_parameters_true'"),
        ("ddp_find_unused_parameters_true", "trained"),
    ],
)  # fmt: skip
def test_in_several_processes_it_is_an_error_before_the_first_step(strategy: str, found: str, tmp_path: Path) -> None:
    assert together(_ranks, strategy, folder=tmp_path) == [found, found]


class Momentum(Eventful):
    """Writes into parameters and draws from generators of its own, as momentum encoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.key = copy.deepcopy(self.head).requires_grad_(False)
        self.total = nn.Parameter(torch.zeros(1), requires_grad=False)
        self.noise, self.chance = torch.Generator(), np.random.default_rng(0)
        self.sums, self.pair = np.zeros(2), (torch.zeros(2), 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        with torch.no_grad():
            for own, other in zip(self.key.parameters(), self.head.parameters(), strict=True):
                own.mul_(0.9).add_(other + torch.rand((), generator=self.noise) + self.chance.random(), alpha=0.1)
        self.total.data = self.total.data + loss.detach()  # another tensor in its place
        self.sums += 1
        self.pair[0].add_(1)
        if self.trainer.global_step == 0 and len(batch) == 2:
            self.trainer.should_stop = True
        return loss

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        self.counts["transfers"] = self.counts.get("transfers", 0) + 1
        return batch


def test_weights_and_draws_of_a_modules_own_step_are_put_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for is_tried in (False, True):
        with monkeypatch.context() as patched:
            if not is_tried:
                patched.setattr(callback_module, "try_stages", lambda *_: None)
            module = Momentum()
            torch.manual_seed(3)
            np.random.seed(3)
            fit(module, STAGES, data=(loader(),))
            found.append([module.state_dict(), module.sums.tolist(), module.pair, module.counts])
    assert same(*found)


class LazyFile(Dataset[Tensor]):
    """Opens itself as the first sample is asked for, as data sets in HDF5 or LMDB do."""

    opened_in: int | None = None

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> Tensor:
        self.opened_in = self.opened_in or os.getpid()
        return images()[i]


def test_the_dataset_is_as_it_was_as_training_begins() -> None:
    class Looks(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.opened_in = data.opened_in

    data, looks = LazyFile(), Looks()
    with pytest.raises(ScheduleError, match="in train mode the backbone gives a tuple"):
        fit(Answers(), STAGES, data=(DataLoader(data, 8),))
    assert data.opened_in is None
    fit(Program(), STAGES, looks, data=(DataLoader(data, 8),))
    assert looks.opened_in is None


class Guarded(Program):
    """Logs nothing in a sanity check, through a helper of its own, or by another name than it says."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.log("mine", 0.5)


class ByHelper(Program):
    def on_train_epoch_end(self) -> None:
        self.report()

    def report(self) -> None:
        self.log("mine", 0.5)


class Prefixed(Program):
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("ine", 0.5)

    def log(self, name: str, *args: Any, **kwargs: Any) -> None:
        super().log(f"m{name}" if name == "ine" else name, *args, **kwargs)


@pytest.mark.parametrize("kind", [Guarded, ByHelper, Prefixed])
def test_a_metric_that_the_trial_cannot_see_is_not_refused(kind: Any) -> None:
    until = Until("mine", "min", patience=1, max_epochs=5)
    assert fit(kind(), [Stage("all", ["all"], until=until, lr=0.1)]).current_epoch == 2
