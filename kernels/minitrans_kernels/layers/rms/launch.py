"""Allocation and launches of the root mean square kernels; arguments and results as in `pytorch`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

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
from minitrans_kernels.layers.rms.kernels import backward_kernel, forward_kernel


def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(y, rstd) of x (N, D); rstd is (N)."""
    count, width = x.shape
    x = contiguous_rows(x)
    y = x.new_empty((count, width))
    rstd = x.new_empty(count, dtype=torch.float32)
    rows, columns, warps = row_tile(width, FORWARD_TILE)
    with on(x.device):
        forward_kernel[(triton.cdiv(count, rows),)](
            x,
            weight.contiguous(),
            y,
            rstd,
            count,
            x.stride(0),
            eps,
            D=width,
            BLOCK_ROWS=rows,
            BLOCK_D=columns,
            num_warps=warps,
        )
    return y, rstd


def backward(grad_y: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of (x, weight)."""
    count, width = x.shape
    grad_y, x = contiguous_rows(grad_y), contiguous_rows(x)
    grad_x = x.new_empty((count, width))
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    rows, columns, warps = row_tile(width, BACKWARD_TILE)
    programs = program_count(x.device, triton.cdiv(count, rows))
    partials = x.new_empty((1, programs, width), dtype=torch.float32)
    with on(x.device):
        backward_kernel[(programs,)](
            grad_y,
            x,
            weight.contiguous(),
            rstd,
            grad_x,
            partials,
            count,
            grad_y.stride(0),
            x.stride(0),
            D=width,
            BLOCK_ROWS=rows,
            BLOCK_D=columns,
            num_warps=warps,
            maxnreg=REGISTERS,
        )
        sum_partials(partials, grad_weight)
    return grad_x, grad_weight
