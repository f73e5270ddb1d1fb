"""What precision=auto becomes on this machine, and what a precision means to torch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stagetune.errors import ConfigError

LIGHTNING = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def device_type(accelerator: str) -> str:
    """What Lightning's `accelerator` argument comes to here: cpu, cuda or mps.

    Raises `ConfigError` for a CUDA GPU that is not there.
    """
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ConfigError([f"trainer.accelerator={accelerator}: torch finds no CUDA GPU here; use trainer=auto"])
    if accelerator in ("auto", "gpu"):
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return accelerator


def resolve_precision(asked: str, device: str) -> str:
    """What is asked, or the best of bf16 and fp32 for a device of type `cpu`, `cuda` or `mps`.

    Raises `ConfigError` for fp16 on a CPU.
    """
    if asked == "fp16" and device == "cpu":
        raise ConfigError(["precision=fp16: a CPU cannot train in fp16; use precision=bf16"])
    if asked != "auto":
        return asked
    return "bf16" if _native_bf16(device) else "fp32"


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Within, products of single-precision matrices are exact, except where TF32 is asked for."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def _native_bf16(device: str) -> bool:
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())
