"""LayerNorm(dropout(x) + residual): a program holds whole rows; the backward's programs each walk over many."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.dropout import threshold
from minitrans_kernels.dropout_kernel import column_keys
from minitrans_kernels.layers import launching
from minitrans_kernels.layers.row_kernels import backward_of_normalise, drop, normalise, normalised_again


@triton.jit
def forward_kernel(
    x, residual, weight, bias, seed, y, z, mean, rstd, rows, x_stride, residual_stride, eps, threshold, scale,
    D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
    HAS_BIAS: tl.constexpr, DROPOUT: tl.constexpr, KEEP_SUM: tl.constexpr,
):  # fmt: skip
    """y (N, D), mean and rstd (N) and, where KEEP_SUM, z (N, D), from x and residual (N, D) with any row stride."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    mask = (row < rows)[:, None] & inside[None, :]
    total = tl.load(x + row[:, None] * x_stride + column[None, :], mask, other=0.0).to(tl.float32)
    if DROPOUT:
        number = tl.load(seed)
        total = drop(total, number, row, column_keys(number, 0, column)[None, :], threshold, scale)
    total += tl.load(residual + row[:, None] * residual_stride + column[None, :], mask, other=0.0).to(tl.float32)
    # as the backward will find it
    total = total.to(z.dtype.element_ty).to(tl.float32)
    normal, centre, inverse = normalise(total, inside, eps, D)
    result = normal * tl.load(weight + column, inside, other=0.0).to(tl.float32)[None, :]
    if HAS_BIAS:
        result += tl.load(bias + column, inside, other=0.0).to(tl.float32)[None, :]
    place = row[:, None] * D + column[None, :]
    tl.store(y + place, result, mask)
    if KEEP_SUM:
        tl.store(z + place, total, mask)
    tl.store(mean + row, centre, row < rows)
    tl.store(rstd + row, inverse, row < rows)


@triton.jit
def backward_kernel(
    grad_y, grad_z, z, weight, mean, rstd, seed, grad_x, grad_residual, partials, rows, grad_y_stride, grad_z_stride,
    threshold, scale, D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
    HAS_GRAD_Z: tl.constexpr, SEPARATE_X: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """grad_residual (N, D), where SEPARATE_X grad_x (N, D), and each program's sums for weight and bias, partials (2, P, D)."""
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    column = tl.arange(0, BLOCK_D)
    inside = column < D
    weight_sum = tl.zeros((BLOCK_D,), tl.float32)
    bias_sum = tl.zeros((BLOCK_D,), tl.float32)
    if not DROPOUT:
        gain = tl.load(weight + column, inside, other=0.0).to(tl.float32)[None, :]
    if DROPOUT and BLOCK_ROWS > 1:
        shared_key = column_keys(tl.load(seed), 0, column)[None, :]
    for start in range(program * BLOCK_ROWS, rows, programs * BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS).to(tl.int64)
        mask = (row < rows)[:, None] & inside[None, :]
        above = tl.load(grad_y + row[:, None] * grad_y_stride + column[None, :], mask, other=0.0).to(tl.float32)
        total = tl.load(z + row[:, None] * D + column[None, :], mask, other=0.0).to(tl.float32)
        normal, inverse = normalised_again(total, mean, rstd, row, rows, mask)
        weight_sum += tl.sum(above * normal, 0)
        bias_sum += tl.sum(above, 0)
        if DROPOUT:
            # from the cache again: with the masks to draw there are no registers to hold it
            gain = tl.load(weight + column, inside, other=0.0).to(tl.float32)[None, :]
        result = backward_of_normalise(above * gain, normal, inverse, D)
        if HAS_GRAD_Z:
            result += tl.load(grad_z + row[:, None] * grad_z_stride + column[None, :], mask, other=0.0).to(tl.float32)
        tl.store(grad_residual + row[:, None] * D + column[None, :], result, mask)
        if SEPARATE_X:
            if DROPOUT:
                number = tl.load(seed)
                # a wide row has no other to share the keys with, and no registers to hold them
                key = shared_key if BLOCK_ROWS > 1 else column_keys(number, 0, column)[None, :]
                result = drop(result, number, row, key, threshold, scale)
            tl.store(grad_x + row[:, None] * D + column[None, :], result, mask)
    tl.store(partials + program.to(tl.int64) * D + column, weight_sum, inside)
    tl.store(partials + (programs + program).to(tl.int64) * D + column, bias_sum, inside)


def forward(
    x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None,
    eps: float, dropout_p: float, keep_sum: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(y, z, mean, rstd) of x and residual (N, D); z is (0, D) unless kept."""
    count, width = x.shape
    x, residual = launching.contiguous_rows(x), launching.contiguous_rows(residual)
    y = x.new_empty((count, width), dtype=torch.promote_types(x.dtype, residual.dtype))
    z = y.new_empty((count if keep_sum else 0, width))
    mean, rstd = x.new_empty(count, dtype=torch.float32), x.new_empty(count, dtype=torch.float32)
    tile = launching.row_tile(width, launching.FORWARD_TILE)
    with launching.on(x.device):
        forward_kernel[(triton.cdiv(count, tile["BLOCK_ROWS"]),)](
            x, residual, weight.contiguous(), weight if bias is None else bias.contiguous(),
            mean if seed is None else seed, y, z, mean, rstd, count, x.stride(0), residual.stride(0),
            eps, threshold(dropout_p), 1.0 / (1.0 - dropout_p),
            D=width, HAS_BIAS=bias is not None, DROPOUT=seed is not None, KEEP_SUM=keep_sum, **tile, maxnreg=launching.REGISTERS,
        )  # fmt: skip
    return y, z, mean, rstd


def backward(
    grad_y: Tensor, grad_z: Tensor | None, z: Tensor, weight: Tensor, bias: Tensor | None, mean: Tensor, rstd: Tensor,
    seed: Tensor | None, dropout_p: float, separate: bool, x_dtype: torch.dtype, residual_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of (x, residual, weight, bias); the first is (0, D) unless separate, the last (0) without a bias."""
    count, width = z.shape
    grad_y = launching.contiguous_rows(grad_y)
    above = grad_y if grad_z is None else launching.contiguous_rows(grad_z)
    grad_residual = z.new_empty((count, width), dtype=residual_dtype)
    grad_x = z.new_empty((count if separate else 0, width), dtype=x_dtype)
    grad_weight, grad_bias = weight.new_empty(width), weight.new_empty(0) if bias is None else bias.new_empty(width)
    totals = (grad_weight,) if bias is None else (grad_weight, grad_bias)
    tile = launching.row_tile(width, launching.BACKWARD_TILE)
    programs = launching.program_count(z.device, triton.cdiv(count, tile["BLOCK_ROWS"]))
    partials = z.new_empty((2, programs, width), dtype=torch.float32)
    with launching.on(z.device):
        backward_kernel[(programs,)](
            grad_y, above, z, weight.contiguous(), mean, rstd, mean if seed is None else seed, grad_x, grad_residual,
            partials, count, grad_y.stride(0), 0 if grad_z is None else above.stride(0),
            threshold(dropout_p), 1.0 / (1.0 - dropout_p),
            D=width, HAS_GRAD_Z=grad_z is not None, SEPARATE_X=separate, DROPOUT=seed is not None,
            **tile, maxnreg=launching.register_limit(tile["num_warps"]),
        )  # fmt: skip
        launching.sum_partials(partials[: len(totals)], *totals)
    return grad_x, grad_residual, grad_weight, grad_bias
