"""What a result was made with: versions, device, commit."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from stagetune import __version__

_PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "numpy")


def environment(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "versions": {
            "python": platform.python_version(),
            "stagetune": __version__,  # a checkout that is not installed has no other
            **{package: version(package) for package in _PACKAGES},
        },
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "git": _commit(),
    }


def _commit() -> str | None:
    """The commit of the code that runs, marked where files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here, capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
