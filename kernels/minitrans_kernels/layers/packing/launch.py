"""Allocation and launches of the row copies; arguments and results as in `pytorch`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from minitrans_kernels.layers.launching import FORWARD_TILE, contiguous_rows, on, row_tile
from minitrans_kernels.layers.packing.kernels import copy_rows_kernel

_COLUMNS = 1024


def pack(x: Tensor, indices: Tensor) -> Tensor:
    """The rows `indices` (N) of x (M, W); zeros for an index that is no row."""
    target = x.new_empty((indices.shape[0], x.shape[1]))
    _copy(x, indices, target, x.shape[0], scatter=False)
    return target


def unpack(x: Tensor, indices: Tensor, rows: int) -> Tensor:
    """(rows, W) with x (N, W) at rows `indices` and zeros elsewhere; an index that is no row is left out."""
    target = x.new_zeros((rows, x.shape[1]))
    _copy(x, indices, target, rows, scatter=True)
    return target


def _copy(source: Tensor, indices: Tensor, target: Tensor, places: int, *, scatter: bool) -> None:
    if source.dtype == torch.bool:
        source, target = source.view(torch.uint8), target.view(torch.uint8)
    source = contiguous_rows(source)
    width = source.shape[1]
    rows, columns, warps = row_tile(max(1, min(width, _COLUMNS)), FORWARD_TILE)
    with on(source.device):
        copy_rows_kernel[(triton.cdiv(indices.shape[0], rows), triton.cdiv(width, columns))](
            source,
            indices.contiguous(),
            target,
            indices.shape[0],
            places,
            source.stride(0),
            WIDTH=width,
            BLOCK_ROWS=rows,
            BLOCK_WIDTH=columns,
            SCATTER=scatter,
            num_warps=warps,
        )
