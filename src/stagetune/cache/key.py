"""What a stored table is of: equal keys mean equal rows."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

VERSION = "2"  # of the format and of the way that images are prepared


def images_key(
    contents: Iterable[str], size: int, interpolation: str = "bilinear", resize: str = "crop", scale: str = ""
) -> str:
    """The key of decoded images: their files' contents in order, and to which size in pixels they come, and how.

    `scale` says which values of deep images are black and white, in words.
    """
    return _digest(VERSION, "images", str(size), interpolation, resize, scale, *contents)


def prefix_key(images: str, prefix: str, *, how: str) -> str:
    """The key of the outputs of a frozen prefix over images, of which the keys are given.

    `how` says in words all that decides the numbers beside them: augmentation, normalisation, precision.
    """
    return _digest(VERSION, images, prefix, how)


def weights_key(prefix: Iterable[nn.Module | Tensor]) -> str:
    """The key of layers, and of parameters and buffers that stand alone: weights, statistics and structure."""
    digest = hashlib.blake2b(digest_size=16)
    for part in prefix:
        if isinstance(part, nn.Module):
            digest.update(repr(part).encode())  # a max-pool has no weights
        state: dict[str, Any] = part.state_dict() if isinstance(part, nn.Module) else {"": part}
        for name, value in state.items():
            if not name.endswith("num_batches_tracked"):
                digest.update(name.encode())
                digest.update(memoryview(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(f"{len(part)}:{part}".encode())
    return digest.hexdigest()
