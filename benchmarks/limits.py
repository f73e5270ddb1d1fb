"""What the hardware allows: images per second if every step ran at the speed of one large matrix product."""

import time

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from stagetune.models.backbones import resnet
from stagetune.schedule.freezing import Freezing
from stagetune.schedule.network import network_of


def images_per_second(size: int) -> dict[str, float]:
    """By stage of the benchmark's job: peak bf16 rate over the operations of a training step on one image."""
    peak = peak_rate()
    return {stage: peak / step_flops(size, stage) for stage in ("layer4", "all")}


def peak_rate(width: int | None = None) -> float:
    """Operations per second of the best of ten products of square bf16 matrices."""
    is_cuda = torch.cuda.is_available()
    width = width or (8192 if is_cuda else 2048)
    a, b = (torch.randn(width, width, device="cuda" if is_cuda else "cpu").bfloat16() for _ in range(2))
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        a @ b
        if is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * float(width) ** 3 / min(seconds)


def step_flops(size: int, stage: str) -> float:
    """Operations of forward and backward for one image, from the stage's frozen prefix on; counted by torch."""
    with torch.device("meta"):
        backbone, head = resnet.Settings(arch="resnet50").build(64), torch.nn.Linear(2048, 10)
        model = torch.nn.ModuleDict({"backbone": backbone, "head": head})
        opened = {"layer4": ("head.", "backbone.layer4"), "all": ("",)}[stage]
        Freezing(network_of(model)).open_only(
            {name for name, _ in model.named_parameters() if name.startswith(opened)}
        )
        depth = {"layer4": 4, "all": 0}[stage]
        shape = {4: (2, 1024, size // 16, size // 16), 0: (2, 3, size, size)}[depth]
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(
                head(backbone(torch.empty(shape), start=depth)), torch.empty(2, dtype=torch.long)
            ).backward()
    return counter.get_total_flops() / 2
