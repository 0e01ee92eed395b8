"""LayerNorm(dropout(x) + residual): a program holds whole rows; the backward's programs each walk over many."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.dropout_kernel import column_keys
from minitrans_kernels.layers.row_kernels import backward_of_normalise, drop, normalise, normalised_again


@triton.jit
def forward_kernel(
    x,
    residual,
    weight,
    bias,
    seed,
    y,
    z,
    mean,
    rstd,
    rows,
    x_stride,
    residual_stride,
    eps,
    threshold,
    scale,
    D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    DROPOUT: tl.constexpr,
    KEEP_SUM: tl.constexpr,
):
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
    grad_y,
    grad_z,
    z,
    weight,
    mean,
    rstd,
    seed,
    grad_x,
    grad_residual,
    partials,
    rows,
    grad_y_stride,
    grad_z_stride,
    threshold,
    scale,
    D: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    HAS_GRAD_Z: tl.constexpr,
    SEPARATE_X: tl.constexpr,
    DROPOUT: tl.constexpr,
):
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
