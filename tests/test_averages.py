"""ema=, l2_sp and lr_scale, each against a plain loop."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from programs import Program, assert_equal, fit, loader, loop, unfreezing_of
from ranks import together
from stagetune.errors import ScheduleError
from stagetune.schedule.spec import Schedule, Stage

HEAD, ALL = {"head": 0.1}, {"": 0.05}
STAGES = [Stage("head", ["head"], lr=0.1), Stage("all", ["all"], epochs=2, lr=0.05)]


class Validated(Program):
    """Keeps the weights that each validation measured."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Tensor]] = []
        self.scores: list[float] = []

    def on_validation_epoch_end(self) -> None:
        self.seen.append(copy.deepcopy(self.state_dict()))
        self.log("score", self.scores[len(self.seen) - 1] if self.scores else 0.0)


def averaged(course: Any, decay: float) -> tuple[list[dict[str, Tensor]], Program]:
    """The averages after each step of torch's own AveragedModel, and the module."""
    plain = Program()
    average = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    states: list[dict[str, Tensor]] = []

    def update() -> None:
        average.update_parameters(plain)
        states.append(copy.deepcopy(average.module.state_dict()))

    loop(plain, course, after_step=update)
    return states, plain


def close(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6, msg=name)


def test_ema_is_torchs_averaged_model_in_validation_and_after_the_fit() -> None:
    module = Validated()
    fit(module, STAGES, ema=0.9)
    states, _ = averaged([(HEAD, 3), (ALL, 6)], 0.9)
    for epoch, seen in enumerate(module.seen):
        close(seen, states[3 * epoch + 2])
    close(module.state_dict(), states[-1])


@pytest.mark.parametrize(("ema", "warned"), [(0.99, True), (0.85, False)])
def test_an_average_over_more_steps_than_there_are_is_said(ema: float, warned: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Program(), STAGES, ema=ema)
    told = [str(warning.message) for warning in caught if "hardly moved" in str(warning.message)]
    text = (
        "ema=0.99 averages about 100 steps, and the schedule has 9: "
        "validation will see weights that have hardly moved; choose a smaller one"
    )
    assert told == ([text] if warned else [])


def test_ema_follows_steps_not_batches() -> None:
    module = Validated()
    fit(module, [Stage("all", ["all"], epochs=2, lr=0.05)], ema=0.9, accumulate_grad_batches=2)
    plain = Program()
    average = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
    loop(plain, [(ALL, 4)], windows=lambda _: 2, after_step=lambda: average.update_parameters(plain))
    assert_equal(module, average.module)


@pytest.mark.parametrize("interval", [1.0, 0.34])
def test_a_checkpoint_is_of_the_averages_and_goes_on_bit_for_bit(interval: float, tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_epochs=1, save_top_k=-1, auto_insert_metric_name=False)
    whole = Validated()
    fit(whole, STAGES, keep, ema=0.9, enable_checkpointing=True, val_check_interval=interval)
    states, _ = averaged([(HEAD, 3), (ALL, 6)], 0.9)
    for step in (3, 6, 9):
        saved = torch.load(tmp_path / f"{step}.ckpt", weights_only=True)
        close(saved["state_dict"], states[step - 1])
        module = Validated()
        fit(module, STAGES, ckpt_path=tmp_path / f"{step}.ckpt", ema=0.9)
        assert_equal(module, whole, 0.0)


@pytest.mark.parametrize(
    "when",
    [{"every_n_epochs": 1}, {"every_n_train_steps": 1}, {"every_n_epochs": 1, "save_on_train_epoch_end": False}],
)
def test_a_checkpoint_of_weights_alone_is_of_the_averages_too(when: dict[str, Any], tmp_path: Path) -> None:
    keep = ModelCheckpoint(
        tmp_path, "{step}", save_weights_only=True, save_top_k=-1, auto_insert_metric_name=False, **when
    )
    fit(Program(), STAGES, keep, ema=0.9, enable_checkpointing=True)
    states, _ = averaged([(HEAD, 3), (ALL, 6)], 0.9)
    paths = list(tmp_path.glob("*.ckpt"))
    assert len(paths) == (9 if "every_n_train_steps" in when else 3)
    for path in paths:
        close(torch.load(path, weights_only=True)["state_dict"], states[int(path.stem) - 1])


@pytest.mark.parametrize(("before", "now"), [(0.9, None), (None, 0.9), (0.9, 0.5)])
def test_a_run_goes_on_with_the_average_that_it_was_begun_with(before: Any, now: Any, tmp_path: Path) -> None:
    fit(Program(), STAGES, ModelCheckpoint(tmp_path, "last"), ema=before, enable_checkpointing=True, max_epochs=1)
    with pytest.raises(
        ScheduleError, match=f"the run was begun with ema={before}, not {now}; say it again, or start"
    ):
        fit(Program(), STAGES, ckpt_path=tmp_path / "last.ckpt", ema=now)


def test_a_stage_that_goes_back_to_its_best_restarts_the_average() -> None:
    module = Validated()
    module.scores = [0.5, 0.1, 0.3, 0.4, *[0.0] * 9]
    stages = Schedule(
        stages=[
            Stage("head", ["head"], epochs=4, restore_best=True, lr=0.1),
            Stage("all", ["all"], epochs=1, lr=0.05, optimizer_state="reset"),
        ],
        monitor="score", mode="min",
    )  # fmt: skip
    fit(module, stages, ema=0.9)
    states, _ = averaged([(HEAD, 12)], 0.9)
    best = states[5]  # after the second epoch
    plain = Program()
    plain.load_state_dict(best)
    average = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(0.9))  # type: ignore[no-untyped-call]
    loop(plain, [(ALL, 3)], after_step=lambda: average.update_parameters(plain))
    assert_equal(module, average.module)


def test_what_a_stage_freezes_stays_at_its_average() -> None:
    module = Validated()
    stages = [Stage("head", ["head"], lr=0.1), Stage("rest", ["stem", "mid", "top"], freeze=["head"], lr=0.05)]
    fit(module, stages, ema=0.9)
    states, _ = averaged([(HEAD, 3)], 0.9)
    close({"head.weight": module.head.weight}, {"head.weight": states[2]["head.weight"]})  # type: ignore[dict-item]
    assert torch.equal(module.seen[-1]["head.weight"], module.head.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("ema", [0.0, 1.0, 1.5])
def test_a_decay_outside_its_range_is_refused(ema: float) -> None:
    with pytest.raises(
        ScheduleError, match=rf"ema={ema}: is the share that each step keeps; give a number between 0"
    ):
        fit(Program(), STAGES, ema=ema)


def test_l2_sp_is_a_penalty_towards_the_weights_that_training_began_with() -> None:
    """Half the squared distance times its strength, of the backbone alone, in place of weight decay there."""

    class Decayed(Program):
        penalty = 0.0

        def __init__(self) -> None:
            super().__init__()
            self.start = [p.detach().clone() for p in self.backbone.parameters()]

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            apart = zip(self.backbone.parameters(), self.start, strict=True)
            return super().training_step(batch, batch_idx) + self.penalty / 2 * sum(
                (p - s).square().sum() for p, s in apart
            )

        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), lr=1.0, momentum=0.9, weight_decay=0.1)

    stages = [Stage("head", ["head"], lr=0.1), Stage("all", ["all"], epochs=2, lr=0.05, l2_sp=0.7)]
    module, plain = Decayed(), Decayed()
    trainer = fit(module, stages)
    decays = {group["name"]: group["weight_decay"] for group in trainer.optimizers[0].param_groups}
    assert decays == {name: 0.1 if name == "head" else 0.0 for name in decays}
    groups = [
        {"params": [p], "name": n, "weight_decay": 0.1 if n == "head.weight" else 0.0}
        for n, p in plain.named_parameters()
    ]
    optimizer = SGD(groups, lr=0.0, momentum=0.9)
    loop(plain, [(HEAD, 3)], optimizer=optimizer)
    plain.penalty = 0.7
    loop(plain, [(ALL, 6)], optimizer=optimizer)
    assert_equal(module, plain)


def relative_norms(rate: float, every: int) -> Callable[[SGD], None]:
    """Rates as the paper has them, from the gradients of the first step of each epoch."""
    steps = iter(range(10**6))

    def scale(optimizer: SGD) -> None:
        if next(steps) % every:
            return
        own = {g["name"]: g["params"][0] for g in optimizer.param_groups if g["params"][0].grad is not None}
        ratios = {name: float(p.grad.norm() / p.norm()) for name, p in own.items()}  # type: ignore[union-attr]
        largest = max(ratio for name, ratio in ratios.items() if own[name].ndim > 1)
        for group in optimizer.param_groups:
            if group["name"] in ratios:
                group["lr"] = rate * min(ratios[group["name"]] / largest, 1.0)

    return scale


SCALED = [Stage("all", ["all"], epochs=3, lr=0.1, lr_scale="relative_gradient_norm")]


class Rates(Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_before_zero_grad(self, trainer: Trainer, *_: Any) -> None:
        self.seen.append({g["name"].removesuffix("/no_decay"): g["lr"] for g in trainer.optimizers[0].param_groups})


def test_lr_scale_multiplies_each_tensors_rate_by_its_relative_gradient_norm() -> None:
    module, plain = Program(), Program()
    fit(module, SCALED)
    loop(plain, [({"": 0.1}, 9)], before_step=relative_norms(0.1, 3))
    assert_equal(module, plain)


def test_lr_scale_goes_with_a_shape_and_is_measured_anew_in_each_stage(tmp_path: Path) -> None:
    stages = [
        Stage("head", ["head"], lr=0.1),
        Stage("all", ["all"], epochs=2, lr=0.1, lr_scheduler="linear", lr_scale="relative_gradient_norm"),
        Stage("last", lr=0.02),
    ]
    rates = Rates()
    fit(Program(), stages, rates)
    linear = rates.seen[4:9]
    for name in ("backbone.stem.weight", "head.bias"):
        factors = [entry[name] / (0.1 * (1 - step / 6)) for step, entry in enumerate(linear, start=1)]
        assert factors[0] == pytest.approx(factors[1])
        assert factors[1] == pytest.approx(factors[2])  # seen before the second epoch's first gradient
        assert factors[2] != pytest.approx(factors[3], rel=1e-4)
        assert factors[3] == pytest.approx(factors[4])
        assert 0 < factors[0] <= 1
    assert set(rates.seen[-1].values()) == {0.02}
    by_tensor = [name for name in rates.seen[0] if name.startswith("backbone.")]
    assert len(by_tensor) == 6


def test_a_tensor_that_is_zero_has_the_full_rate_and_no_say_in_the_largest() -> None:
    class Zero(Program):
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    rates = Rates()
    fit(Zero(), SCALED, rates)
    assert rates.seen[1]["head.bias"] == pytest.approx(0.1)
    assert max(rate for name, rate in rates.seen[1].items() if name.endswith("weight")) == pytest.approx(0.1)


@pytest.mark.slow
def test_lr_scale_and_l2_sp_go_on_within_an_epoch_bit_for_bit(tmp_path: Path) -> None:
    from test_neighbours import Resumable

    stages = [
        Stage("head", ["head"], lr=0.1),
        Stage("all", ["all"], epochs=2, lr=0.1, lr_scale="relative_gradient_norm", l2_sp=0.5),
    ]
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    whole = Program()
    fit(whole, stages, keep, enable_checkpointing=True, data=(Resumable(),))
    for step in range(1, 9):
        module = Program()
        fit(module, stages, ckpt_path=tmp_path / f"{step}.ckpt", data=(Resumable(),))
        assert_equal(module, whole, 0.0)


def _ranks() -> list[Any]:
    stages = [Stage("all", ["all"], epochs=2, lr=0.1, lr_scale="relative_gradient_norm", l2_sp=0.5)]
    module = Program()
    trainer = fit(module, stages, strategy="ddp", devices=2, ema=0.9, use_distributed_sampler=True)
    unfreezing = unfreezing_of(trainer)
    return [{n: p.detach().numpy() for n, p in module.named_parameters()}, unfreezing._norms.factors]


@pytest.mark.slow
def test_replicas_measure_the_same_norms_and_keep_the_same_averages(tmp_path: Path) -> None:
    (first, norms), (second, other) = together(_ranks, folder=tmp_path)
    assert norms == other
    assert len(norms) == 8
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_scale": "gradient"}, r"lr_scale=gradient: no such choice; did you mean relative_gradient_norm\?"),
        ({"l2_sp": -1.0}, r"l2_sp=-1\.0: must be at least 0"),
        (
            {"lr_scale": "relative_gradient_norm", "lr_scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR"}},
            "lr_scale goes with a shape by name, not with a torch class",
        ),
    ],
)
def test_settings_that_do_not_go_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        fit(Program(), [Stage("a", ["all"], lr=0.1, **settings)])


def test_a_fit_that_a_limit_leaves_nothing_to_train_ends_with_the_averages(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, "last")
    first, again = Program(), Program()
    fit(first, STAGES, keep, ema=0.9, enable_checkpointing=True, max_epochs=2)
    fit(again, STAGES, ckpt_path=tmp_path / "last.ckpt", ema=0.9, max_epochs=2)
    assert_equal(again, first, 0.0)


def test_the_same_trainer_goes_on_from_the_weights_that_it_trained() -> None:
    class Plain(Program):
        def configure_optimizers(self) -> Any:  # Lightning makes another for each fit
            return SGD(self.parameters(), lr=1.0)

    whole, module = Plain(), Plain()
    fit(whole, STAGES, ema=0.9)
    trainer = fit(module, STAGES, ema=0.9, max_epochs=2)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader(), loader(8))
    assert_equal(module, whole, 0.0)
