"""StagedUnfreezing with a LightningModule of one's own: no Hydra, no train.py. Run: python examples/own_module.py

Any module with a `backbone` will do, and any one optimizer over its parameters; which of them train, and at which
rate, the stages decide. They come from a list as here, from a preset's name ("staged") or from a YAML file.
"""

from typing import cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split
from torchvision.models import resnet18

from stagetune.schedule.callback import StagedUnfreezing
from stagetune.schedule.spec import Stage, Until

STAGES = [
    Stage("head", open=["head"], epochs=1, lr=1e-2),
    Stage("top", open=["layer4"], until=Until(patience=1, max_epochs=3), lr=1e-3, lr_decay=0.5, restore_best=True),
    Stage("all", open=["all"], steps=20, lr=1e-3, lr_decay=0.5, lr_scheduler="cosine", batch_norm="frozen"),
]
BLOCKS = {"stem": ["conv1", "bn1"], **{name: [name] for name in ("layer1", "layer2", "layer3", "layer4")}}


class Digits(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = resnet18()
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]
        self.head = nn.Linear(512, 10)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, target = batch
        return F.cross_entropy(self.head(self.backbone(images)), target)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # groups of one's own keep their settings; rates are the stages'
        groups = [
            {"params": self.backbone.parameters(), "weight_decay": 0.01},
            {"params": self.head.parameters(), "weight_decay": 0.1},
        ]
        return torch.optim.AdamW(groups)


def loaders() -> list[DataLoader[tuple[Tensor, Tensor]]]:
    digits = load_digits()
    images = torch.tensor(digits.images[:512], dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, 32).expand(-1, 3, -1, -1)
    parts = random_split(TensorDataset(images, torch.tensor(digits.target[:512])), [384, 128])
    return [cast(DataLoader[tuple[Tensor, Tensor]], DataLoader(part, 64)) for part in parts]


if __name__ == "__main__":
    unfreezing = StagedUnfreezing(
        STAGES,
        blocks=BLOCKS,
        monitor="val_loss",
    )
    # no max_epochs: the stages say how long; fit(ckpt_path="last") would go on with a run that stopped
    trainer = Trainer(callbacks=[unfreezing, ModelCheckpoint(monitor="val_loss", save_last=True)], logger=False)
    trainer.fit(Digits(), *loaders())
    for stage, (epoch, step) in zip(unfreezing.plan.stages, unfreezing.stage_starts, strict=True):
        print(f"stage {stage.name} began in epoch {epoch}, at step {step}")
