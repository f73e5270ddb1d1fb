"""Embeddings as whoever measures them has them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stagetune.errors import DataError


def as_embeddings(
    embeddings: Tensor | npt.ArrayLike, identity: Tensor | npt.ArrayLike | Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Both as tensors on the CPU: at least float32 [n, d], and int64 [n].

    Args:
        embeddings: [n, d], a tensor, an array or lists.
        identity: [n], numbers or names, likewise.

    Raises:
        DataError: where they are no such thing, where the two are not of as many images, and where a value is no
            finite number: no distance to it means anything.
    """
    values = torch.as_tensor(embeddings if isinstance(embeddings, Tensor) else np.asarray(embeddings)).detach().cpu()
    if values.ndim != 2 or values.is_complex():
        raise DataError(
            f"embeddings: expected numbers [images, dimensions], got {list(values.shape)}, {values.dtype}"
        )
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    names = identity.detach().cpu() if isinstance(identity, Tensor) else np.asarray(identity)
    if isinstance(names, np.ndarray):
        names = torch.from_numpy(np.unique(names, return_inverse=True)[1].reshape(names.shape))
    if list(names.shape) != [len(values)]:
        raise DataError(f"identity: expected one of each of {len(values)} embeddings, got {list(names.shape)}")
    broken = (~values.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise DataError(
            f"embeddings: {len(broken)} of {len(values)} hold NaN or infinite values, the first is number "
            f"{int(broken[0])}, counted from 0; leave them out, or look at the model that gave them"
        )
    return values, names.long()
