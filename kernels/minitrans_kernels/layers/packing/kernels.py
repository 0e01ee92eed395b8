"""Copies rows to or from given places."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def copy_rows_kernel(
    source,
    indices,
    target,
    count,
    places,
    source_stride,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
    SCATTER: tl.constexpr,
):
    """target[i] = source[indices[i]], or where SCATTER target[indices[i]] = source[i]; no index outside `places` is followed."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    place = tl.load(indices + row, row < count, other=-1).to(tl.int64)
    exists = (row < count) & (place >= 0) & (place < places)
    inside = (column < WIDTH)[None, :]
    if SCATTER:
        value = tl.load(source + row[:, None] * source_stride + column[None, :], exists[:, None] & inside, other=0)
        tl.store(target + place[:, None] * WIDTH + column[None, :], value, exists[:, None] & inside)
    else:
        value = tl.load(source + place[:, None] * source_stride + column[None, :], exists[:, None] & inside, other=0)
        tl.store(target + row[:, None] * WIDTH + column[None, :], value, (row < count)[:, None] & inside)
