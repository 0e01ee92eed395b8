"""Allocation and launches of the layer norm kernels; arguments and results as in `pytorch`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from minitrans_kernels.dropout import threshold
from minitrans_kernels.layers.launching import (
    BACKWARD_TILE,
    FORWARD_TILE,
    REGISTERS,
    contiguous_rows,
    on,
    program_count,
    register_limit,
    row_tile,
    sum_partials,
)
from minitrans_kernels.layers.layer_norm.kernels import backward_kernel, forward_kernel


def forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    eps: float,
    dropout_p: float,
    keep_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(y, z, mean, rstd) of x and residual (N, D); z is (0, D) unless kept."""
    count, width = x.shape
    x, residual = contiguous_rows(x), contiguous_rows(residual)
    y = x.new_empty((count, width), dtype=torch.promote_types(x.dtype, residual.dtype))
    z = y.new_empty((count if keep_sum else 0, width))
    mean = x.new_empty(count, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    rows, columns, warps = row_tile(width, FORWARD_TILE)
    with on(x.device):
        forward_kernel[(triton.cdiv(count, rows),)](
            x,
            residual,
            weight.contiguous(),
            weight if bias is None else bias.contiguous(),
            mean if seed is None else seed,
            y,
            z,
            mean,
            rstd,
            count,
            x.stride(0),
            residual.stride(0),
            eps,
            threshold(dropout_p),
            1.0 / (1.0 - dropout_p),
            D=width,
            BLOCK_ROWS=rows,
            BLOCK_D=columns,
            HAS_BIAS=bias is not None,
            DROPOUT=seed is not None,
            KEEP_SUM=keep_sum,
            num_warps=warps,
            maxnreg=REGISTERS,
        )
    return y, z, mean, rstd


def backward(
    grad_y: Tensor,
    grad_z: Tensor | None,
    z: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    seed: Tensor | None,
    dropout_p: float,
    separate: bool,
    x_dtype: torch.dtype,
    residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of (x, residual, weight, bias); the first is empty unless separate, the last without a bias."""
    count, width = z.shape
    grad_y = contiguous_rows(grad_y)
    grad_z = None if grad_z is None else contiguous_rows(grad_z)
    grad_residual = z.new_empty((count, width), dtype=residual_dtype)
    grad_x = z.new_empty((count if separate else 0, width), dtype=x_dtype)
    grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
    grad_bias = weight.new_empty(0) if bias is None else torch.empty_like(bias, memory_format=torch.contiguous_format)
    rows, columns, warps = row_tile(width, BACKWARD_TILE)
    programs = program_count(z.device, triton.cdiv(count, rows))
    partials = z.new_empty((2, programs, width), dtype=torch.float32)
    with on(z.device):
        backward_kernel[(programs,)](
            grad_y,
            grad_y if grad_z is None else grad_z,
            z,
            weight.contiguous(),
            mean,
            rstd,
            mean if seed is None else seed,
            grad_x,
            grad_residual,
            partials,
            count,
            grad_y.stride(0),
            0 if grad_z is None else grad_z.stride(0),
            threshold(dropout_p),
            1.0 / (1.0 - dropout_p),
            D=width,
            BLOCK_ROWS=rows,
            BLOCK_D=columns,
            HAS_GRAD_Z=grad_z is not None,
            SEPARATE_X=separate,
            DROPOUT=seed is not None,
            num_warps=warps,
            maxnreg=register_limit(warps),
        )
        if bias is None:
            sum_partials(partials[:1], grad_weight)
        else:
            sum_partials(partials, grad_weight, grad_bias)
    return grad_x, grad_residual, grad_weight, grad_bias
