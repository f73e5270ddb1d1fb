"""Programs of somebody's own, and the plain torch loop that they should train like."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from stagetune.schedule.callback import StagedUnfreezing

QUIET: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
    "num_sanity_val_steps": 0, "enable_checkpointing": False,
}  # fmt: skip
BATCHES = 3  # an epoch


class Program(LightningModule):
    """Three layers under a head. What it logs: val_loss in validation, train_loss over each epoch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone: nn.Module = nn.Sequential()
        for name in ("stem", "mid", "top"):
            self.backbone.add_module(name, nn.Linear(4, 4))
        self.head: nn.Module = nn.Linear(4, 2)

    def forward(self, batch: Tensor) -> Tensor:
        return self.head(torch.tanh(self.backbone(batch)))  # type: ignore[no-any-return]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self(batch) - 1).square().mean()
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", (self(batch) - 1).square().mean())

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=1.0, momentum=0.9)


def images(count: int = 8 * BATCHES) -> Tensor:
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(0))


class Sampled(DataLoader[Tensor]):
    """Says itself what its first samples are: from another, StagedUnfreezing reads them in a process of their own.

    That is half the time of a short fit. Any loader's samples are for tests/test_trial.py.
    """

    def sample(self, count: int) -> Tensor:
        return self.dataset[:count]


def loader(count: int = 8 * BATCHES) -> DataLoader[Tensor]:
    return Sampled(images(count), 8)  # type: ignore[arg-type]


def fit(
    module: LightningModule, schedule: Any, *more: Callback, first: Sequence[Callback] = (), **settings: Any
) -> Trainer:
    """Train under the callback; keywords that are its own go to it, others to the Trainer."""
    own = {k: settings.pop(k) for k in ("blocks", "backbone", "came_frozen", "monitor", "ema") if k in settings}
    data = settings.pop("data", None) or (loader(), loader(8))
    ckpt_path = settings.pop("ckpt_path", None)
    trainer = Trainer(callbacks=[*first, StagedUnfreezing(schedule, **own), *more], **{**QUIET, **settings})
    trainer.fit(module, *data, ckpt_path=ckpt_path)
    return trainer


def unfreezing_of(trainer: Trainer) -> StagedUnfreezing:
    (found,) = (c for c in trainer.callbacks if isinstance(c, StagedUnfreezing))  # type: ignore[attr-defined]
    return found


def loop(
    module: LightningModule,
    course: Iterable[tuple[dict[str, float], int] | None],
    *,
    batches: Sequence[Tensor] | None = None,
    windows: Callable[[int], int] = lambda epoch: 1,
    after_step: Callable[[], None] = lambda: None,
    before_step: Callable[[SGD], None] = lambda optimizer: None,
    optimizer: SGD | None = None,
) -> None:
    """Plain torch: for each entry of `course` train what its keys name, at their rates, for so many optimizer steps.

    Keys are prefixes of names in the module; batches come in their order, epoch after epoch, of which each ends with
    a step; None begins another epoch. Layers of which nothing trains are in eval mode. `windows` says how many
    batches make a step in an epoch; fewer at its end are divided by as many, as Lightning does.
    """
    batches = list(loader()) if batches is None else batches
    module.__dict__["log"] = lambda *_, **__: None
    groups = [{"params": [p], "name": n} for n, p in module.named_parameters()]
    optimizer = optimizer or SGD(groups, lr=0.0, momentum=0.9)
    epochs = itertools.count()
    stream = _steps(batches, windows, epochs)
    for entry in course:
        if entry is None:
            stream = _steps(batches, windows, epochs)
            continue
        rates, count = entry
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(any(name.startswith(key) for key in rates))
            parameter.grad = None
        module.train()
        for layer in module.modules():
            if (own := list(layer.parameters())) and not any(p.requires_grad for p in own):
                layer.eval()
        for group in optimizer.param_groups:
            group["lr"] = next((rate for key, rate in rates.items() if group["name"].startswith(key)), 0.0)
        for size, window in itertools.islice(stream, count):
            optimizer.zero_grad()
            for batch in window:
                (module.training_step(batch, 0) / size).backward()
            before_step(optimizer)
            optimizer.step()
            after_step()
    module.requires_grad_(True).train()
    del module.__dict__["log"]


def _steps(
    batches: Sequence[Tensor], windows: Callable[[int], int], epochs: Iterator[int]
) -> Iterator[tuple[int, Sequence[Tensor]]]:
    for epoch in epochs:
        size = windows(epoch)
        for first in range(0, len(batches), size):
            yield size, batches[first : first + size]


def assert_equal(module: nn.Module, expected: nn.Module, tolerance: float = 1e-6) -> None:
    state = module.state_dict()
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(
            state[name], value, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}"
        )
