"""A package of somebody else's: parts that a configuration names by `_target_`, written without a word of ours."""

import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchmetrics import Metric
from torchvision.transforms import v2


class Shapes(Dataset[tuple[Any, int]]):
    """Squares, discs and crosses, `count` of each, as tensors [3, size, size] or as images of Pillow's."""

    classes = ("square", "disc", "cross")

    def __init__(self, count: int, size: int = 32, pil: bool = False) -> None:
        self.count, self.size, self.pil = count, size, pil

    def __len__(self) -> int:
        return 3 * self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        label = index // self.count
        along = (torch.arange(self.size) - self.size / 2 + index % self.count % 5).abs() / self.size * 2
        y, x = torch.meshgrid(along, along, indexing="ij")
        inside = (torch.maximum(x, y) < 0.5, x.square() + y.square() < 0.3, torch.minimum(x, y) < 0.15)[label]
        pixels = (inside * 200 + index % self.count).to(torch.uint8).expand(3, -1, -1).contiguous()
        return (Image.fromarray(pixels.permute(1, 2, 0).numpy()) if self.pil else pixels), label


class Cosine(nn.Module):
    """Same pairs of a batch point one way; the others' cosine is at most `margin`."""

    def __init__(self, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, embeddings: Tensor, identity: Tensor) -> Tensor:
        cosine = F.normalize(embeddings) @ F.normalize(embeddings).T
        is_same = identity[:, None] == identity
        return torch.where(is_same, 1 - cosine, F.relu(cosine - self.margin)).mean()


class Focal(nn.Module):
    """Cross-entropy that weighs sure answers less (Lin et al. 2017)."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        cost = F.cross_entropy(logits, target, reduction="none")
        return ((1 - torch.exp(-cost)) ** self.gamma * cost).mean()


class Sharpness(nn.Module):
    """Cross-entropy, and how steep it is; it asks for gradients itself."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        cost = F.cross_entropy(logits, target)
        (slope,) = torch.autograd.grad(cost, logits, create_graph=True)
        return cost + slope.norm()


class Speckle:
    """Sets a share of the pixels to a random colour, with the numbers of one of three generators."""

    def __init__(self, share: float, by: str = "torch") -> None:
        self.share, self.by = share, by

    def __call__(self, image: Tensor) -> Tensor:
        shape = image.shape[1:]
        draws = {
            "torch": lambda: (torch.rand(shape), int(torch.randint(256, ()))),
            "python": lambda: (
                torch.tensor([[random.random() for _ in range(shape[1])] for _ in range(shape[0])]),
                random.randrange(256),
            ),
            "numpy": lambda: (torch.from_numpy(np.random.rand(*shape)), int(np.random.randint(256))),
            "itself": lambda: (torch.from_numpy(np.random.default_rng().random(shape)), 0),
        }
        chance, colour = draws[self.by]()
        image[:, chance < self.share] = colour  # in place, as many do
        return image


def with_pillow(image: Tensor, strength: float = 0.5) -> Tensor:
    """A library that takes numpy arrays [h, w, 3], as albumentations does, behind a function of one's own."""
    array = np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).rotate(random.uniform(-90, 90) * strength))
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


def as_float(image: Tensor) -> Tensor:
    return image.float() / 255


def as_pillow(image: Tensor) -> Image.Image:
    picture: Image.Image = v2.functional.to_pil_image(image)
    return picture


def smaller(image: Tensor) -> Tensor:
    return image[:, 1:]


class Diary(Callback):
    """What happened, in order; kept in checkpoints."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.lines: list[str] = []

    def on_stage_start(self, trainer: Trainer, pl_module: LightningModule, stage: Any) -> None:
        self.lines.append(f"{self.prefix}{stage.name} begins before step {trainer.global_step}")

    def on_stage_end(self, trainer: Trainer, pl_module: LightningModule, stage: Any) -> None:
        self.lines.append(f"{self.prefix}{stage.name} ends after step {trainer.global_step}")

    def state_dict(self) -> dict[str, Any]:
        return {"lines": self.lines}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lines = state_dict["lines"]


class Surprise(Metric):
    """The mean of -log of what was given to the right class, in bits; lower is better."""

    higher_is_better = False
    total: Tensor
    count: Tensor

    def __init__(self, num_classes: int, base: float = 2.0) -> None:
        super().__init__()
        self.num_classes, self.base = num_classes, base
        self.add_state("total", torch.tensor(0.0), "sum")
        self.add_state("count", torch.tensor(0), "sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        assert preds.shape[1] == self.num_classes
        self.total -= (preds[torch.arange(len(target)), target].log() / np.log(self.base)).sum()
        self.count += len(target)

    def compute(self) -> Tensor:
        return self.total / self.count


class Pairs(Metric):
    """How many were given, as (preds, target)."""

    preds: Tensor
    target: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("preds", [], "cat")
        self.add_state("target", [], "cat")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(preds)  # type: ignore[operator]
        self.target.append(target)  # type: ignore[operator]

    def compute(self) -> Tensor:
        return torch.tensor(float(sum(map(len, self.target))))


class Doubled(Metric):
    """Another metric within, twice its value."""

    def __init__(self, metric: Metric) -> None:
        super().__init__()
        self.metric = metric

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.metric.update(preds, target)

    def compute(self) -> Any:
        return 2 * self.metric.compute()

    def reset(self) -> None:
        super().reset()
        self.metric.reset()


class Errors(Surprise):
    """The same, of which a low value is good."""

    higher_is_better = False
