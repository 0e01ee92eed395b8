"""Root mean square normalisation: a program holds whole rows; the backward's programs each walk over many."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.layers import launching


@triton.jit
def forward_kernel(
    x, weight, y, rstd, rows, x_stride, eps,
    D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """y (N, D) and rstd (N) from x (N, D) with any row stride."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    mask = (row < rows)[:, None] & inside[None, :]
    value = tl.load(x + row[:, None] * x_stride + column[None, :], mask, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 1) / D + eps)
    result = value * inverse[:, None] * tl.load(weight + column, inside, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row[:, None] * D + column[None, :], result, mask)
    tl.store(rstd + row, inverse, row < rows)


@triton.jit
def backward_kernel(
    grad_y, x, weight, rstd, grad_x, partials, rows, grad_y_stride, x_stride,
    D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_x (N, D) and each program's sum for the weight, partials (P, D)."""
    program = tl.program_id(0)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    gain = tl.load(weight + column, inside, other=0.0).to(tl.float32)[None, :]
    weight_sum = tl.zeros((BLOCK_D,), tl.float32)
    for start in range(program * BLOCK_ROWS, rows, tl.num_programs(0) * BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        mask = (row < rows)[:, None] & inside[None, :]
        above = tl.load(grad_y + row[:, None] * grad_y_stride + column[None, :], mask, other=0.0).to(tl.float32)
        value = tl.load(x + row[:, None] * x_stride + column[None, :], mask, other=0.0).to(tl.float32)
        inverse = tl.load(rstd + row, row < rows, other=0.0)[:, None]
        normal = value * inverse
        weight_sum += tl.sum(above * normal, 0)
        scaled = above * gain
        result = (scaled - normal * (tl.sum(scaled * normal, 1)[:, None] / D)) * inverse
        tl.store(grad_x + row[:, None] * D + column[None, :], result, mask)
    tl.store(partials + program.to(tl.int64) * D + column, weight_sum, inside)


def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(y, rstd) of x (N, D); rstd is (N)."""
    count, width = x.shape
    x = launching.contiguous_rows(x)
    y = x.new_empty((count, width))
    rstd = x.new_empty(count, dtype=torch.float32)
    tile = launching.row_tile(width, launching.FORWARD_TILE)
    with launching.on(x.device):
        forward_kernel[(triton.cdiv(count, tile["BLOCK_ROWS"]),)](
            x, weight.contiguous(), y, rstd, count, x.stride(0), eps, D=width, **tile
        )
    return y, rstd


def backward(grad_y: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of (x, weight)."""
    count, width = x.shape
    grad_y, x = launching.contiguous_rows(grad_y), launching.contiguous_rows(x)
    grad_x, grad_weight = x.new_empty((count, width)), weight.new_empty(width)
    tile = launching.row_tile(width, launching.BACKWARD_TILE)
    programs = launching.program_count(x.device, triton.cdiv(count, tile["BLOCK_ROWS"]))
    partials = x.new_empty((1, programs, width), dtype=torch.float32)
    with launching.on(x.device):
        backward_kernel[(programs,)](
            grad_y, x, weight.contiguous(), rstd, grad_x, partials, count, grad_y.stride(0), x.stride(0),
            D=width, **tile, maxnreg=launching.REGISTERS,
        )  # fmt: skip
        launching.sum_partials(partials, grad_weight)
    return grad_x, grad_weight
