"""Two processes train one model: replicas are one, gradients are those of the whole batch, images count once."""

import hashlib
import os
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed import GradBucket
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.utils.data import DataLoader

import networks
from programs import Program, fit
from ranks import together
from stagetune.cache.callback import FeatureCaching
from stagetune.cache.store import Store
from stagetune.config.compose import compose
from stagetune.config.parts import part
from stagetune.config.schema import CacheConfig
from stagetune.data.samplers import identity_batches, shuffled_batches
from stagetune.models.heads import linear_head
from stagetune.models.own import own_backbone
from stagetune.run.data import build_data
from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.spec import Schedule, Stage
from stagetune.tasks.classification import ClassificationTask
from stagetune.tasks.siamese import SiameseTask
from stagetune.tasks.staged_task import StagedTask
from test_neighbours import CUT, Trace

pytestmark = pytest.mark.slow
QUIET = {
    "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
    "enable_model_summary": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False,
}  # fmt: skip
LAYERS = ["stem", "layer2", "layer3", "layer4"]


class Digests(Callback):
    """A hash of weights and statistics at each epoch's beginning, and how many bytes its steps communicate."""

    def __init__(self) -> None:
        self.weights: list[str] = []
        self.statistics: list[str] = []  # of BatchNorm
        self.sent: list[int] = []
        self.wrapped: DistributedDataParallel | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.weights.append(_digest(pl_module.parameters()))
            self.statistics.append(_digest(pl_module.buffers()))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.sent.append(0)
        wrapped = trainer.strategy.model
        assert isinstance(wrapped, DistributedDataParallel)
        if wrapped is not self.wrapped:
            self.wrapped = wrapped
            wrapped.register_comm_hook(None, self.count)

    def count(self, state: object, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        self.sent[-1] += bucket.buffer().numel()
        summed = torch.distributed.all_reduce(bucket.buffer(), async_op=True).get_future()
        return summed.then(lambda future: future.value()[0] / 2)


class Module(LightningModule):
    """A backbone with BatchNorm under a head, trained on other images in each process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = networks.Net()
        self.head = nn.Linear(8, 3)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.head(self.backbone(batch).mean((2, 3))).square().sum()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return SGD(filter(lambda parameter: parameter.requires_grad, self.parameters()), lr=0.01)


def _digest(tensors: Iterable[torch.Tensor]) -> str:
    content = b"".join(tensor.detach().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(content).hexdigest()


def _train_apart(unfreezing: Callback) -> tuple[list[str], list[str], list[int]]:
    digests = Digests()
    strategy = DDPStrategy(process_group_backend="gloo")
    trainer = Trainer(devices=2, strategy=strategy, max_epochs=4, callbacks=[unfreezing, digests], **QUIET)
    rank = trainer.global_rank
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(rank))
    trainer.fit(Module(), DataLoader(images, 4))
    return digests.weights, digests.statistics, digests.sent


def test_pl_20340_replicas_are_bit_identical_after_every_stage_boundary(tmp_path: Path) -> None:
    """Under Lightning's callback the reducer never learns of what was unfrozen, and replicas drift apart."""
    stages = [
        Stage("head", ["head"], lr=0.1),
        Stage("layer4", ["layer4"], lr=0.1),
        Stage("all", ["all"], lr=0.1),
        Stage("less", freeze=["stem", "layer2"], lr=0.1),
    ]
    (first, statistics, sent), (second, other_statistics, _) = together(
        _train_apart, StagedUnfreezing(Schedule(stages=stages), blocks=LAYERS), folder=tmp_path / "ours"
    )
    assert first == second
    assert statistics == other_statistics
    assert len(set(first)) == 4
    sizes = {name: sum(p.numel() for p in layer.parameters()) for name, layer in Module().named_modules()}
    head, layer4, everything = sizes["head"], sizes["backbone.layer4"], sizes[""]
    low = sizes["backbone.stem"] + sizes["backbone.layer2"]
    # only what a stage trains is communicated, two steps an epoch
    assert sent == [2 * head, 2 * (head + layer4), 2 * everything, 2 * (everything - low)]

    (first, *_), (second, *_) = together(
        _train_apart, BackboneFinetuning(unfreeze_backbone_at_epoch=1), folder=tmp_path / "lightnings"
    )
    assert first[:2] == second[:2]
    assert first[2] != second[2]


class Plain(nn.Module):
    """Without BatchNorm, whose statistics are each process's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer4 = nn.Conv2d(3, 4, 5, 3), nn.Conv2d(4, 6, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer4(torch.relu(self.stem(images))))  # type: ignore[no-any-return]


def _task(kind: str) -> StagedTask:
    torch.manual_seed(0)
    backbone = own_backbone(Plain(), ["stem", "layer4"])
    make = partial(SGD, lr=1.0)
    if kind == "classifier":
        head = linear_head(6, 10)
        return ClassificationTask(backbone, head, nn.CrossEntropyLoss(), classes=10, make_optimizer=make)

    chosen: Any = part("loss", kind)
    settings = {"margin": 1.0} if kind == "triplet" else {}
    loss = chosen(**settings).build(10, 4)
    return SiameseTask(backbone, nn.Linear(6, 4), loss, make_optimizer=make)


def _train_as_one(
    kind: str, precision: str, processes: int, cache: CacheConfig | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """Two stages over batches of 2 x 20 images (the last one uneven), or of 40 in one process."""
    rank = int(os.environ["RANK"]) if processes > 1 else 0
    extra = [] if kind == "classifier" else ["task=siamese", f"loss={kind}"]
    size = 40 // processes
    small = ["data.image_size=16", "data.val=0.2", "data.test=0.6", "data.augment=none"]  # 359 are trained on
    config = compose([*extra, *small, f"data.batch_size={size}"])
    data = build_data(config, rank=rank, world_size=processes)
    task = _task(kind)
    rate = 0.1 if kind == "classifier" else 1e-3  # hard mining on collapsed embeddings would be chaotic
    stages = [Stage("head", ["head"], lr=rate), Stage("all", ["all"], lr=rate)]
    several: dict[str, Any] = {"devices": processes}
    if processes > 1:
        several["strategy"] = DDPStrategy(process_group_backend="gloo")
    unfreezing = StagedUnfreezing(Schedule(stages=stages))
    callbacks: list[Callback] = [unfreezing]
    if cache and folder:
        store = Store(folder, memory_gb=cache.memory_gb, disk_gb=cache.disk_gb, say=print, writes=rank == 0)
        callbacks.append(FeatureCaching(unfreezing, data, store, cache, folder / f"{rank}.json"))
    trainer = Trainer(callbacks=callbacks, precision=precision, **several, **QUIET)  # type: ignore[arg-type]
    trainer.fit(task, datamodule=data)
    if cache:
        assert isinstance(callbacks[1], FeatureCaching)
        assert {name for name, decision in callbacks[1].decided.items() if decision["used"]} == {
            "head/val",
            "head/train",
        }
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {"weights": {n: p.detach().double().numpy() for n, p in task.named_parameters()}, "metrics": metrics}


@pytest.mark.parametrize(
    ("kind", "precision", "tolerance"),
    [
        *((kind, "64-true", 1e-12) for kind in ("classifier", "contrastive", "triplet", "bce", "supcon", "arcface")),
        *((kind, "32-true", 1e-6) for kind in ("classifier", "triplet")),  # one without pairs, and one with
    ],
)
def test_two_processes_train_as_one_does_on_the_same_batches(
    kind: str, precision: str, tolerance: float, tmp_path: Path
) -> None:
    """Pairs are formed across processes; the weights after two stages are those of a single process."""
    alone = _train_as_one(kind, precision, 1)
    first, second = together(_train_as_one, kind, precision, 2, folder=tmp_path)
    for name, expected in alone["weights"].items():
        assert np.array_equal(first["weights"][name], second["weights"][name]), name
        np.testing.assert_allclose(first["weights"][name], expected, rtol=0, atol=tolerance, err_msg=name)
    assert first["metrics"] == second["metrics"]
    assert first["metrics"] == pytest.approx(alone["metrics"], abs=10 * tolerance)


@pytest.mark.parametrize(
    ("precision", "memory_gb", "tolerance"),
    [("32-true", 1.0, 1e-6), ("32-true", 0.0, 1e-6), ("bf16-mixed", 1.0, 5e-3)],
)
def test_two_processes_fill_one_cache_and_train_as_without(
    precision: str, memory_gb: float, tolerance: float, tmp_path: Path
) -> None:
    """Each computes its share; a table larger than memory is a file that one of them writes and both read."""
    cache = CacheConfig(memory_gb=memory_gb, disk_gb=1.0)
    first, second = together(_train_as_one, "contrastive", precision, 2, cache, tmp_path / "tables", folder=tmp_path)
    without, _ = together(_train_as_one, "contrastive", precision, 2, folder=tmp_path / "without")
    for name, expected in without["weights"].items():
        assert np.array_equal(first["weights"][name], second["weights"][name]), name
        np.testing.assert_allclose(first["weights"][name], expected, rtol=0, atol=tolerance, err_msg=name)
    assert first["metrics"] == second["metrics"]
    assert len(list((tmp_path / "tables").glob("*.bin"))) == 2


@given(st.integers(4, 200), st.integers(2, 20), st.integers(1, 4), st.integers(0, 3))
def test_processes_share_each_batch_and_together_see_each_image_once(
    count: int, batch_size: int, processes: int, epoch: int
) -> None:
    count = max(count, 2 * processes)
    whole = shuffled_batches(count, batch_size * processes, seed=1, epoch=epoch)
    shares = [
        shuffled_batches(count, batch_size, seed=1, epoch=epoch, rank=rank, world_size=processes)
        for rank in range(processes)
    ]
    assert len({len(batches) for batches in shares}) == 1
    assert all(len(batch) >= 2 for batches in shares for batch in batches)
    together_seen = [[*chain(*batch)] for batch in zip(*shares, strict=True)]
    assert sorted(chain(*together_seen)) == list(range(count))
    if len(whole) == len(together_seen):
        assert together_seen == whole


@given(st.integers(2, 3), st.integers(2, 4), st.integers(2, 4), st.integers(0, 3))
def test_identity_batches_stay_p_by_k_with_other_identities_in_each_process(
    processes: int, identities: int, images: int, epoch: int
) -> None:
    """Lightning's wrapping of a sampler leaves about 8 of 48 positive pairs."""
    labels = np.repeat(np.arange(processes * identities + 3), images + 1)
    shares = [
        identity_batches(labels, identities, images, seed=0, epoch=epoch, rank=rank, world_size=processes)
        for rank in range(processes)
    ]
    for batches in zip(*shares, strict=True):
        seen: set[int] = set()
        for batch in batches:
            found, counts = np.unique(labels[batch], return_counts=True)
            assert len(found) == identities
            assert (counts == images).all()
            assert not seen & set(found.tolist())
            seen |= set(found.tolist())
    other = identity_batches(labels, identities, images, seed=0, epoch=epoch + 1, rank=0, world_size=processes)
    assert other != shares[0]


def _events() -> list[str]:
    trace = Trace()
    fit(Program(), CUT, trace, strategy="ddp", devices=2)
    return trace.events


def test_stage_events_come_once_each_in_every_process(tmp_path: Path) -> None:
    """Three batches of an epoch are two in each of two processes."""
    events = ["head starts at 0", "head ends at 4", "all starts at 4", "all ends at 8"]
    assert together(_events, folder=tmp_path) == [events, events]
