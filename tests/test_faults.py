"""Known faults of the peers: each test passes with our callback, and fails with Lightning's, which has the fault.

The drifting replicas of PL #20340 are in test_processes.py, the schedule that was edited in test_standalone.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.models import resnet18, resnet50

from programs import Sampled
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.spec import Stage

BLOCKS = {"stem": ["conv1", "bn1"], **{name: [name] for name in ("layer1", "layer2", "layer3", "layer4")}}
QUIET: dict[str, Any] = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0,
}  # fmt: skip


class Module(LightningModule):
    """A fresh ResNet under a head, with the optimizer that each callback's documentation asks for."""

    def __init__(self, scheduled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = resnet18()
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]
        self.head = nn.Linear(512, 2)
        self.scheduled = scheduled

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.head(self.backbone(batch)).square().mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        optimizer = SGD(filter(lambda parameter: parameter.requires_grad, self.parameters()), lr=1e-3)
        return ([optimizer], [LambdaLR(optimizer, lambda epoch: 0.5**epoch)]) if self.scheduled else optimizer


def ours() -> Callback:
    stages = [Stage("head", ["head"], epochs=1, lr=1e-3), Stage("all", ["all"], epochs=3, lr=1e-3, lr_decay=0.5)]
    return StagedUnfreezing(stages, blocks=BLOCKS)


def lightnings() -> Callback:
    return BackboneFinetuning(unfreeze_backbone_at_epoch=1)


either = pytest.mark.parametrize(
    "unfreezing",
    [
        ours,
        pytest.param(
            lightnings, marks=pytest.mark.xfail(strict=True, reason="a fault of Lightning's", raises=AssertionError)
        ),
    ],
)


def train(unfreezing: Callback, *more: Callback, epochs: int = 4, **settings: Any) -> Trainer:
    module, ckpt_path = settings.pop("module", None), settings.pop("ckpt_path", None)
    settings = {"logger": False, "enable_checkpointing": False, **QUIET, **settings}
    trainer = Trainer(max_epochs=epochs, callbacks=[unfreezing, *more], **settings)
    images: Any = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    trainer.fit(Module() if module is None else module, Sampled(images, 4), ckpt_path=ckpt_path)
    return trainer


class AtEpoch(Callback):
    """Calls `look` with trainer and module at the first batch of an epoch."""

    def __init__(self, epoch: int, look: Callable[[Trainer, LightningModule], None]) -> None:
        self.epoch, self.look = epoch, look

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 0):
            self.look(trainer, pl_module)


@either
def test_pl_15062_a_frozen_batch_norm_does_not_move(unfreezing: Callable[[], Callback]) -> None:
    before = {name: value.clone() for name, value in Module().backbone.state_dict().items()}
    after: dict[str, Tensor] = {}
    look = AtEpoch(1, lambda _, module: after.update({n: v.clone() for n, v in module.backbone.state_dict().items()}))  # type: ignore[union-attr, operator]
    train(unfreezing(), look)
    for name, value in before.items():
        assert torch.equal(after[name], value), name


@either
def test_a_frozen_backbone_keeps_nothing_for_backward(unfreezing: Callable[[], Callback]) -> None:
    kept: dict[int, int] = {}

    def measure(trainer: Trainer, module: LightningModule) -> None:
        def note(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            module.training_step(torch.rand(4, 3, 64, 64), 0)
        for pointer in own & kept.keys():
            del kept[pointer]

    train(unfreezing(), AtEpoch(0, measure))
    assert sum(kept.values()) < 2**17


class LayerByLayer(BaseFinetuning):
    """A group for each layer, as Lightning's documentation shows it."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone, train_bn=False)  # type: ignore[arg-type]

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        for layer in ("layer4", "layer3", "layer2", "layer1") if epoch == 1 else ():
            self.unfreeze_and_add_param_group(pl_module.get_submodule(f"backbone.{layer}"), optimizer)


@pytest.mark.parametrize(
    "unfreezing",
    [
        ours,
        pytest.param(
            LayerByLayer, marks=pytest.mark.xfail(strict=True, reason="a fault of Lightning's", raises=AssertionError)
        ),
    ],
)
def test_every_tensor_of_a_fresh_resnet50_reaches_the_optimizer(unfreezing: Callable[[], Callback]) -> None:
    """Membership is told by identity: by value, fresh BatchNorm layers of one size are all the same."""
    module = Module()
    module.backbone = resnet50()
    module.backbone.fc = nn.Identity()  # type: ignore[assignment]
    module.head = nn.Linear(2048, 2)
    held: set[int] = set()

    def look(trainer: Trainer, _: LightningModule) -> None:
        held.update(id(parameter) for group in trainer.optimizers[0].param_groups for parameter in group["params"])

    train(unfreezing(), AtEpoch(1, look), module=module, limit_train_batches=1)
    lost = [n for n, p in module.named_parameters() if n.startswith("backbone.layer") and id(p) not in held]
    assert lost == []


class AddsAGroup(BaseFinetuning):
    """One layer, and the scheduler that was there before it."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.backbone)  # type: ignore[arg-type]

    def finetune_function(self, pl_module: LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone.layer4, optimizer)  # type: ignore[union-attr, arg-type]


def halving() -> tuple[Callback, Module]:
    spec = {"_target_": "torch.optim.lr_scheduler.LambdaLR",
            "lr_lambda": {"_target_": "test_course.halved", "_partial_": True, "by": 2}}  # fmt: skip
    stages = [
        Stage(name, [name], epochs=1 + 2 * i, lr=1e-3, lr_scheduler=spec) for i, name in enumerate(("head", "all"))
    ]
    return StagedUnfreezing(stages, blocks=BLOCKS), Module()


@pytest.mark.parametrize(
    "setup",
    [
        halving,
        pytest.param(
            lambda: (AddsAGroup(), Module(scheduled=True)),
            marks=pytest.mark.xfail(
                strict=True, reason="a fault of Lightning's", raises=(AssertionError, IndexError, ValueError)
            ),
        ),
    ],
    ids=["ours", "lightnings"],
)
def test_pl_12141_a_scheduler_moves_what_was_unfrozen(setup: Callable[[], tuple[Callback, Module]]) -> None:
    unfreezing, module = setup()
    trainer = train(unfreezing, module=module)
    rates = {group["lr"] for group in trainer.optimizers[0].param_groups}
    assert rates == {1e-3 * 0.5**3}


@pytest.mark.slow
@either
def test_pl_21901_a_restart_within_an_epoch_trains_what_it_trained(
    unfreezing: Callable[[], Callback], tmp_path: Path
) -> None:
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1, auto_insert_metric_name=False)
    train(unfreezing(), keep, epochs=4, enable_checkpointing=True)
    seen: list[int] = []

    class Count(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            seen.append(sum(parameter.requires_grad for parameter in pl_module.parameters()))

    train(unfreezing(), Count(), ckpt_path=tmp_path / "3.ckpt")  # in the middle of epoch 1
    assert seen == [len(list(Module().parameters()))] * 5


@either
def test_pl_20194_groups_have_the_names_of_their_blocks_in_every_log(
    unfreezing: Callable[[], Callback], tmp_path: Path
) -> None:
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    monitor = LearningRateMonitor("step")
    train(unfreezing(), monitor, logger=logger, log_every_n_steps=1)
    assert {f"lr-SGD/{name}" for name in ("backbone.stem", "backbone.layer4", "head")} <= monitor.lrs.keys()
