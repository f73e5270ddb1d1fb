"""Seconds of a training step and bytes kept for backward: our stages beside Lightning's BackboneFinetuning.

`python -m benchmarks.steps` takes about a minute. The variants alternate within each round, so that a machine
that changes speed changes it for all of them; figures are medians, ratios are to Lightning's frozen phase.
"""

import statistics
import time
from collections.abc import Callable

import torch
from lightning.pytorch.callbacks import BaseFinetuning
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from stagetune.models.backbone import Backbone, build_backbone
from stagetune.schedule.freezing import open_only

ROUNDS, SIZE, BATCH = 5, 64, 32


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone: Backbone = build_backbone("resnet50")
        self.head = nn.Linear(self.backbone.out_features, 10)


def ours(blocks: tuple[str, ...]) -> Model:
    model = Model()
    open_only(model, blocks)
    return model


def lightnings() -> Model:
    """The frozen phase as BackboneFinetuning leaves it: freeze() with its default train_bn=True."""
    model = Model().train()
    BaseFinetuning.freeze(model.backbone, train_bn=True)
    return model


def step(model: Model, images: torch.Tensor, target: torch.Tensor) -> None:
    F.cross_entropy(model.head(model.backbone(images)), target).backward()
    model.zero_grad()


def kept_for_backward(model: Model, images: torch.Tensor) -> int:
    """Bytes of the tensors that autograd saves in one forward pass."""
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = model.head(model.backbone(images))
    total = sum(size for pointer, size in seen.items() if pointer not in parameters)
    del kept
    return total


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    variants: dict[str, Callable[[], Model]] = {
        "Lightning, frozen phase": lightnings,
        "stage head": lambda: ours(("head",)),
        "stage layer4": lambda: ours(("layer4", "head")),
        "stage all": lambda: ours(("stem", "layer1", "layer2", "layer3", "layer4", "head")),
    }
    models = {name: make().to(device) for name, make in variants.items()}
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, device=device)
    target = torch.randint(0, 10, (BATCH,), device=device)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(ROUNDS + 1):
        for name, model in models.items():
            began = time.perf_counter()
            step(model, images, target)
            if device == "cuda":
                torch.cuda.synchronize()
            if round_:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    table = Table("", "seconds a step", "times faster", "kept for backward, MiB", box=None, pad_edge=False)
    base = seconds["Lightning, frozen phase"]
    for name, model in models.items():
        ratios = [b / s for b, s in zip(base, seconds[name], strict=True)]
        median = statistics.median(ratios)
        spread = f"{median:.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        kept = kept_for_backward(model, images) / 2**20
        table.add_row(name, f"{statistics.median(seconds[name]):.4f}", spread, f"{kept:.1f}")
    console = Console(width=110)
    console.print(
        f"ResNet50, {BATCH} images of {SIZE} px, fp32, {device}, torch {torch.__version__}, {ROUNDS} rounds"
    )
    console.print(table)


if __name__ == "__main__":
    main()
