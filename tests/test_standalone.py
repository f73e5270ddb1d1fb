"""`StagedUnfreezing` with anybody's LightningModule and Trainer, without Hydra and without train.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

import networks
from commands import start
from programs import Sampled
from stagetune.errors import ScheduleError
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.spec import Schedule, Stage, Until

LAYERS = ["stem", "layer2", "layer3", "layer4"]
STAGES = [
    Stage("head", ["head"], epochs=1, lr=0.1),
    Stage("layer4", ["layer4"], epochs=2, lr=0.1, lr_decay=0.5, lr_scheduler="cosine"),
    Stage("all", ["all"], epochs=2, lr=0.1, lr_scheduler={"_target_": "torch.optim.lr_scheduler.OneCycleLR"}),
]
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}  # fmt: skip


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = networks.Net()
        self.head = nn.Linear(8, 3)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.head(self.backbone(batch).mean((2, 3))) - 1).square().mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=1.0, momentum=0.9)


def loader() -> DataLoader[Tensor]:
    images: Any = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return Sampled(images, 8)


def train(
    schedule: Any = STAGES, module: LightningModule | None = None, more: Sequence[Callback] = (), **settings: Any
) -> Trainer:
    ckpt_path = settings.pop("ckpt_path", None)
    unfreezing = StagedUnfreezing(schedule, blocks=LAYERS, resume_with_new_schedule=settings.pop("new", False))
    keeps = any(isinstance(callback, ModelCheckpoint) for callback in more)
    trainer = Trainer(callbacks=[unfreezing, *more], enable_checkpointing=keeps, **QUIET, **settings)
    trainer.fit(Module() if module is None else module, loader(), loader(), ckpt_path=ckpt_path)
    return trainer


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return trainer.lightning_module.state_dict()


def assert_same(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name


class StopBehind(Callback):
    """Stops at the end of an epoch, as a person or a time limit would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= trainer.current_epoch == self.epoch


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights(train()).items()}


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
@pytest.mark.parametrize("way", ["fit(ckpt_path)", "trainer.ckpt_path", "validated between", "same trainer"])
def test_a_fit_that_was_stopped_goes_on_as_if_it_had_not(
    way: str, epoch: int, whole: dict[str, Tensor], tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path, save_last=True, monitor="val_loss")
    second = ModelCheckpoint(tmp_path / "second", every_n_epochs=2, save_top_k=-1)
    stop = StopBehind(epoch)
    stopped = train(more=[stop, keep, second])
    assert stopped.current_epoch == epoch + 1
    stop.epoch = -1
    last = tmp_path / "last.ckpt"
    if way == "fit(ckpt_path)":
        trainer = train(more=[ModelCheckpoint(tmp_path / "more")], ckpt_path=last)
    elif way == "trainer.ckpt_path":
        unfreezing = StagedUnfreezing(STAGES, blocks=LAYERS)
        trainer = Trainer(callbacks=[unfreezing], enable_checkpointing=False, **QUIET)
        trainer.ckpt_path = last
        trainer.fit(Module(), loader(), loader())
    else:
        trainer = stopped
        if way == "validated between":
            module = stopped.lightning_module
            stopped.validate(module, loader(), verbose=False)
            first = next((tmp_path / "second").glob("*.ckpt"), last)  # of an earlier stage
            stopped.validate(module, loader(), verbose=False, ckpt_path=first)
        trainer.fit(stopped.lightning_module, loader(), loader(), ckpt_path=last)
    assert trainer.current_epoch == 5
    assert_same(weights(trainer), whole)


def test_a_preset_by_name_and_a_file_by_path_are_schedules_too(tmp_path: Path) -> None:
    unfreezing = StagedUnfreezing("lp_ft", blocks=LAYERS)
    assert [stage.name for stage in unfreezing.schedule.stages] == ["probe", "finetune"]
    path = tmp_path / "mine.yaml"
    path.write_text("leave_frozen: true\nstages:\n  - {name: a, open: [head, layer4], epochs: 1, lr: 1e-2}\n")
    trainer = train(path)
    assert trainer.current_epoch == 1
    (unfreezing,) = (callback for callback in trainer.callbacks if isinstance(callback, StagedUnfreezing))  # type: ignore[attr-defined]
    assert unfreezing.plan.name == "mine"
    assert unfreezing.plan.stages[0].open_blocks == ("layer4", "head")


def test_the_same_callback_may_train_another_module_from_the_start(whole: dict[str, Tensor]) -> None:
    unfreezing = StagedUnfreezing(STAGES, blocks=LAYERS)
    for _ in range(2):
        trainer = Trainer(callbacks=[unfreezing], enable_checkpointing=False, **QUIET)
        trainer.fit(Module(), loader(), loader())
        assert_same(weights(trainer), whole)


def test_early_stopping_beside_it_still_stops() -> None:
    stages = [Stage("a", ["head"], steps=2, lr=0.1), Stage("b", ["all"], epochs=20, lr=1e-9)]
    trainer = train(stages, more=[EarlyStopping("val_loss", patience=2, min_delta=1.0)])
    assert trainer.current_epoch == 3


def test_settings_of_somebodys_own_groups_stay() -> None:
    class Grouped(Module):
        def configure_optimizers(self) -> Optimizer:
            own = [
                {"params": self.backbone.parameters(), "weight_decay": 0.3, "betas": (0.8, 0.9)},
                {"params": self.head.parameters(), "weight_decay": 0.1},
            ]
            return AdamW(own)

    trainer = train(module=Grouped())
    for group in trainer.optimizers[0].param_groups:
        expected = (0.1, 0.999) if group["name"].startswith("head") else (0.3, 0.9)
        assert (group["weight_decay"], group["betas"][1]) == expected


def test_an_edited_schedule_is_refused_by_name_and_taken_where_that_is_said(tmp_path: Path) -> None:
    """finetuning-scheduler accepts it, and lands in another phase."""
    train(more=[StopBehind(3), ModelCheckpoint(tmp_path, save_last=True)])
    edited = [STAGES[0], STAGES[1], Stage("all", ["all"], epochs=4, lr=0.05, batch_norm="frozen")]
    with pytest.raises(
        ScheduleError, match=r"another schedule: stage all: epochs is 4, was 2; stage all: backbone\.\S+ is frozen"
    ):
        train(edited, ckpt_path=tmp_path / "last.ckpt")
    with pytest.raises(
        ScheduleError, match="the run is in its stage 3, all, and the new schedule has only 2; give it as many"
    ):
        train(Schedule(stages=STAGES[:2], leave_frozen=True), ckpt_path=tmp_path / "last.ckpt", new=True)

    class Momenta(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if not hasattr(self, "seen"):
                state, names = trainer.optimizers[0].state, dict(pl_module.named_parameters())
                self.seen = {n: state[p]["momentum_buffer"].clone() for n, p in names.items() if p in state}

    momenta = Momenta()
    trainer = train(edited, ckpt_path=tmp_path / "last.ckpt", new=True, more=[momenta])
    assert trainer.current_epoch == 7  # three epochs after it, one of the new stage's four done
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["optimizer_states"][0]
    names = [name for group in saved["param_groups"] for name in group["param_names"]]
    assert set(momenta.seen) == set(names)
    for name, number in zip(names, (n for g in saved["param_groups"] for n in g["params"]), strict=True):
        assert torch.equal(momenta.seen[name], saved["state"][number]["momentum_buffer"]), name


class ByHand(Module):
    automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return [SGD(self.backbone.parameters(), 0.1), SGD(self.head.parameters(), 0.1)]


class OwnScheduler(Module):
    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), 0.1)
        return [optimizer], [StepLR(optimizer, 1)]


class NoBackbone(LightningModule):
    def training_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any: ...


@pytest.mark.parametrize(
    ("schedule", "module", "settings", "message"),
    [
        (
            STAGES,
            ByHand,
            {},
            r"ByHand optimizes by hand \(automatic_optimization=False\), where nobody says when a step",
        ),
        (STAGES, OwnScheduler, {}, "configure_optimizers must give one optimizer and no scheduler"),
        (STAGES, NoBackbone, {}, "NoBackbone has no backbone; name its pretrained part self.backbone"),
        ("stagedd", Module, {}, "there is no schedule stagedd; did you mean staged"),
        ("gone.yaml", Module, {}, "schedule file gone.yaml does not exist"),
        ("gradual", Module, {}, "stage layer1: this model has no block layer1; did you mean layer"),
        ([Stage("a", ["head"], epochs=1, steps=2, lr=1.0)], Module, {}, "gives both epochs and steps"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_trained(
    schedule: Any, module: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ScheduleError, match=message):
        train(schedule, module(), **settings)


def test_fsdp_is_refused_in_one_sentence() -> None:
    trainer = Mock(strategy=FSDPStrategy.__new__(FSDPStrategy))
    with pytest.raises(ScheduleError, match=r"^FSDPStrategy binds parameters together that stages free singly"):
        StagedUnfreezing(STAGES, blocks=LAYERS).setup(trainer, Module(), "fit")


def test_a_checkpoint_from_without_it_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(max_epochs=1, callbacks=[ModelCheckpoint(tmp_path, save_last=True)], **QUIET)
    trainer.fit(Module(), loader(), loader())
    with pytest.raises(ScheduleError, match="made without StagedUnfreezing; load its weights and start anew"):
        train(ckpt_path=tmp_path / "last.ckpt")


def test_layers_that_do_not_exist_are_named_with_those_that_do() -> None:
    unfreezing = StagedUnfreezing(STAGES, blocks=["stem", "layer5"])
    trainer = Trainer(callbacks=[unfreezing], enable_checkpointing=False, **QUIET)
    with pytest.raises(ScheduleError, match=r"the backbone has no layer layer5; did you mean layer[234]\?"):
        trainer.fit(Module(), loader())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_trains_the_same_set_after_a_boundary(backend: str, whole: dict[str, Tensor]) -> None:
    module: Any = torch.compile(Module(), backend=backend)
    trainer = train(module=module)
    seen = {name for name, parameter in trainer.lightning_module.named_parameters() if parameter.requires_grad}
    assert seen == {name for name, _ in Module().named_parameters()}
    for name, value in weights(trainer).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-4, atol=1e-5)


def test_bf16_and_accumulation_across_a_boundary_are_a_plain_loops_steps() -> None:
    """Three batches an epoch, a step every two: the leftover steps, and no gradient crosses into the next stage."""
    stages = [Stage("head", ["head"], epochs=1, lr=0.1), Stage("all", ["all"], epochs=2, lr=0.05)]
    ours = train(stages, precision="bf16-mixed", accumulate_grad_batches=2)
    assert ours.global_step == 6
    plain = Module()
    optimizer = SGD(
        [{"params": plain.head.parameters()}, {"params": plain.backbone.parameters()}], lr=0, momentum=0.9
    )
    for epoch in range(3):
        opened = [plain.head] if epoch == 0 else [plain.head, plain.backbone]
        plain.requires_grad_(False).eval()
        for part in opened:
            part.requires_grad_(True).train()
        for group in optimizer.param_groups:
            group["lr"] = 0.1 if epoch == 0 else 0.05
        for number, batch in enumerate(loader()):
            if number % 2 == 0:
                optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = plain.training_step(batch, number)
            (loss / 2).backward()
            if number in (1, 2):  # Lightning divides the leftover by the full window, too
                optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    example = Path(__file__).parents[1] / "examples" / "own_module.py"
    process = start(str(example), cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lines = out.splitlines()
    assert "stage head began in epoch 0, at step 0" in lines
    assert "stage top began in epoch 1, at step 6" in lines


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (Stage("a", ["all"], epochs=0, lr=0.1), r"stages\[0\]\.epochs=0: must be at least 1"),
        (Stage("a", ["all"], lr=-0.1), r"stages\[0\]\.lr=-0\.1: must be at least 0"),
        (Stage("a", ["all"], lr=0.1, batch_norm="freeze"), r"batch_norm=freeze: no such choice; did you mean"),
        (Stage("a", ["all"], lr=0.1, until=Until("val_loss", "minimum")), r"until\.mode=minimum: no such choice"),
        (
            Stage("a", ["all"], lr=0.1, until=Until("val_thing")),
            r"is a high val_thing good\? say mode=max",
        ),
    ],
)
def test_a_stage_written_in_python_is_checked_as_one_in_a_file(stage: Stage, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        train([stage])


def test_every_change_of_a_rate_is_seen_also_within_a_block(tmp_path: Path) -> None:
    def schedule(rate: float) -> list[Stage]:
        return [Stage("a", ["all"], epochs=3, lrs={"*.1.*": rate, "all": 0.1})]

    train(schedule(1e-4), more=[StopBehind(0), ModelCheckpoint(tmp_path, save_last=True)])
    with pytest.raises(ScheduleError, match=r"the rate of backbone\.stem\.1\.weight is 1e-09, was 0\.0001"):
        train(schedule(1e-9), ckpt_path=tmp_path / "last.ckpt")


def test_a_plateau_knows_that_a_high_score_is_good() -> None:
    class Rising(Module):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("val_accuracy", float(self.current_epoch))

    spec = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0}
    stages = Schedule(stages=[Stage("a", ["all"], epochs=5, lr=0.1, lr_scheduler=spec)], monitor="val_accuracy")
    assert {group["lr"] for group in train(stages, Rising()).optimizers[0].param_groups} == {0.1}


def test_a_new_schedule_gives_the_stage_that_goes_on_its_full_length(tmp_path: Path) -> None:
    def schedule(first: int) -> list[Stage]:
        return [Stage("a", ["head"], epochs=first, lr=0.1), Stage("b", ["all"], epochs=4, lr=0.1)]

    train(schedule(2), more=[StopBehind(2), ModelCheckpoint(tmp_path, save_last=True)])
    trainer = train(schedule(1), ckpt_path=tmp_path / "last.ckpt", new=True)
    assert trainer.current_epoch == 6
