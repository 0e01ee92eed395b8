"""What the kernels of this folder share: functions of a tile of whole rows, and the sum of what programs leave."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.dropout_kernel import keep, row_keys


@triton.jit
def normalise(total, inside, eps, D: tl.constexpr):
    """(rows with mean 0 and variance 1, mean, inverse of the standard deviation); `inside` marks the D columns that exist."""
    mean = tl.sum(total, 1) / D
    centred = tl.where(inside[None, :], total - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / D + eps)
    return centred * rstd[:, None], mean, rstd


@triton.jit
def normalised_again(total, mean, rstd, row, rows, mask):
    """(the normalised rows, rstd as a column) from the statistics (N) that the forward kept; zeros outside `mask`."""
    centre = tl.load(mean + row, row < rows, other=0.0)[:, None]
    inverse = tl.load(rstd + row, row < rows, other=0.0)[:, None]
    return tl.where(mask, (total - centre) * inverse, 0.0), inverse


@triton.jit
def backward_of_normalise(grad, normal, rstd, D: tl.constexpr):
    """The gradient of the rows before `normalise`, from that of the rows after it."""
    along = tl.sum(grad * normal, 1)[:, None] / D
    # rstd goes in first: were grad, a product, only subtracted from, its factors would be held and multiplied again
    return grad * rstd - (tl.sum(grad, 1)[:, None] / D + normal * along) * rstd


@triton.jit
def drop(value, seed, row, column_key, threshold, scale):
    """Dropout of the rows `row`; `column_key` is that of stream 0, computed once for all rows."""
    kept = keep(row_keys(seed, 0, row)[:, None], column_key, threshold)
    return tl.where(kept, value * scale, 0.0)


@triton.jit
def sum_partials_kernel(partials, first, second, count, width, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr):
    """Sum partials (1 or 2, P, D) over P, into `first` (D) and, from the second plane, into `second` (D)."""
    column = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    plane = tl.program_id(1)
    inside = column < width
    base = partials + plane.to(tl.int64) * count * width
    total = tl.zeros((BLOCK_P, BLOCK_D), tl.float32)
    for start in range(0, count, BLOCK_P):
        row = start + tl.arange(0, BLOCK_P)
        mask = (row < count)[:, None] & inside[None, :]
        total += tl.load(base + row[:, None].to(tl.int64) * width + column[None, :], mask, other=0.0)
    result = tl.sum(total, 0)
    if plane == 0:
        tl.store(first + column, result, inside)
    else:
        tl.store(second + column, result, inside)
