"""Allocation and launches of the GELU kernels; arguments and results as in `pytorch`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from minitrans_kernels.layers.gelu.kernels import backward_kernel, forward_kernel
from minitrans_kernels.layers.launching import (
    BACKWARD_TILE,
    FORWARD_TILE,
    REGISTERS,
    contiguous_rows,
    on,
    program_count,
    row_tile,
    sum_partials,
)

# columns of a tile: wide enough that 4 warps load whole cache lines
_COLUMNS = 1024


def forward(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """GELU of x (N, F) + bias (F), in the dtype of x."""
    count, width = x.shape
    x = contiguous_rows(x)
    y = x.new_empty((count, width))
    rows, columns, warps = row_tile(min(width, _COLUMNS), FORWARD_TILE)
    with on(x.device):
        forward_kernel[(triton.cdiv(count, rows), triton.cdiv(width, columns))](
            x,
            bias.contiguous(),
            y,
            count,
            x.stride(0),
            F=width,
            BLOCK_ROWS=rows,
            BLOCK_F=columns,
            TANH=approximate == "tanh",
            num_warps=warps,
        )
    return y


def backward(grad_y: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """Gradients of (x, bias)."""
    count, width = x.shape
    grad_y, x = contiguous_rows(grad_y), contiguous_rows(x)
    grad_x = x.new_empty((count, width))
    grad_bias = torch.empty_like(bias, memory_format=torch.contiguous_format)
    rows, columns, warps = row_tile(min(width, _COLUMNS), BACKWARD_TILE)
    strips = triton.cdiv(width, columns)
    programs = triton.cdiv(program_count(x.device, triton.cdiv(count, rows) * strips), strips)
    partials = x.new_empty((1, programs, width), dtype=torch.float32)
    with on(x.device):
        backward_kernel[(programs, strips)](
            grad_y,
            x,
            bias.contiguous(),
            grad_x,
            partials,
            count,
            grad_y.stride(0),
            x.stride(0),
            F=width,
            BLOCK_ROWS=rows,
            BLOCK_F=columns,
            TANH=approximate == "tanh",
            num_warps=warps,
            maxnreg=REGISTERS,
        )
        sum_partials(partials, grad_bias)
    return grad_x, grad_bias
