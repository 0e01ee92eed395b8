"""Gathering and scattering rows in plain PyTorch; arguments as in `launch`."""

from __future__ import annotations

from torch import Tensor


def pack(x: Tensor, indices: Tensor) -> Tensor:
    """The rows `indices` (N) of x (M, W)."""
    return x.index_select(0, indices)


def unpack(x: Tensor, indices: Tensor, rows: int) -> Tensor:
    """(rows, W) with x (N, W) at rows `indices` and zeros elsewhere."""
    return x.new_zeros((rows, x.shape[1])).index_copy(0, indices, x)
