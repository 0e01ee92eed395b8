"""The fixed-order sum of the partial results that the programs of a backward leave."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_partials_kernel(partials, first, second, count, width, BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr):  # noqa: N803
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
