"""The meaning of pack_rows and unpack_rows."""

from __future__ import annotations

import torch
from torch import Tensor


def pack_rows(x: Tensor, indices: Tensor) -> Tensor:
    """The tokens at flat positions `indices` (N) of x (B, S, ...)."""
    return torch.stack([x[index // x.shape[1], index % x.shape[1]] for index in indices.tolist()])


def unpack_rows(x: Tensor, indices: Tensor, batch: int, length: int) -> Tensor:
    """A (B, S, ...) of zeros with x (N, ...) at flat positions `indices`."""
    cells = [torch.zeros_like(x[0])] * (batch * length)
    for row, index in enumerate(indices.tolist()):
        cells[index] = x[row]
    return torch.stack(cells).view(batch, length, *x.shape[1:])
