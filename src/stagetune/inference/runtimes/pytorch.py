"""PyTorch, on a CPU or a GPU."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from stagetune.inference.network import Network
from stagetune.inference.runtimes import Images, Outputs


class PyTorch:
    """A network on a device.

    Args:
        network: in eval mode.
        device: as torch calls it.
        precision: fp32, or bf16, in which products are of rounded numbers: an embedding then differs by up to 3e-3 of
            its length from that of the same image in another batch.
    """

    name = "pytorch"

    def __init__(self, network: Network, *, device: str = "cpu", precision: str = "fp32") -> None:
        self.device, self.precision = torch.device(device), precision
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        self.about: dict[str, Any] = {"torch": torch.__version__, "device": str(self.device), "precision": precision}

    def __call__(self, images: Images) -> Outputs:
        try:
            return self._run(images)
        except torch.OutOfMemoryError:
            if len(images) == 1:
                raise
        half = len(images) // 2  # outside of the handler, which would keep the memory
        first, second = self(images[:half]), self(images[half:])
        return {name: np.concatenate([first[name], second[name]]) for name in first}

    def _run(self, images: Images) -> Outputs:
        kind = self.device.type
        casts = torch.autocast(kind, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with torch.inference_mode(), casts:
            found = self.network(torch.from_numpy(images).to(self.device))
        return {name: value.cpu().numpy() for name, value in zip(self.network.outputs, found, strict=True)}
