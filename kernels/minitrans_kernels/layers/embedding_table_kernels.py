"""The gradient of a table: for each of its rows, the sum over the tokens that looked it up, in their order.

Tokens are sorted by id, so that those of one row stand side by side, and cut into chunks. A program walks along a chunk
and writes the sum of each row that begins and ends inside it. A row that goes over the edge of a chunk leaves a tail in
the chunk where it begins and a head in each one where it goes on; a second kernel adds these up, from left to right.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# tokens of a sorted chunk, heads that are joined at a time, and columns of a strip: one warp, 16 bytes a thread in bfloat16
_CHUNK = 32
_HEADS = 16
_COLUMNS = 256


@triton.jit
def chunk_sums_kernel(
    grad, order, sorted_ids, table, heads, tails, count, table_rows, padding_idx,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows of `table` (zeroed) that lie inside a chunk, and heads and tails (chunks, D) of the others.

    Token i of the sorted ones is grad[order[i]] for row sorted_ids[i]; row padding_idx stays zero.
    """
    chunk = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = column < D
    total = tl.zeros((BLOCK_D,), tl.float32)
    began = chunk < 0
    for step in tl.range(0, CHUNK, num_stages=4):
        index = chunk * CHUNK + step
        there = index < count
        row = tl.load(sorted_ids + index, there, other=-1).to(tl.int64)
        begins = row != tl.load(sorted_ids + index - 1, there & (index > 0), other=-1).to(tl.int64)
        ends = row != tl.load(sorted_ids + index + 1, index + 1 < count, other=-1).to(tl.int64)
        token = tl.load(order + index, there, other=0)
        value = tl.load(grad + token * D + column, inside & there, other=0.0).to(tl.float32)
        total = tl.where(begins, value, total + value)
        began = began | begins
        wanted = there & (row >= 0) & (row < table_rows) & (row != padding_idx)
        tl.store(table + row * D + column, total, inside & (wanted & ends & began))
        last = there & (step == CHUNK - 1) & ~ends
        tl.store(heads + chunk * D + column, total, inside & ((there & ends) | last) & ~began)
        tl.store(tails + chunk * D + column, total, inside & last & began)


@triton.jit
def join_kernel(
    sorted_ids, table, heads, tails, count, table_rows, padding_idx,
    D: tl.constexpr, CHUNK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows of `table` that begin in this program's chunk and end in a later one: its tail and the heads that follow."""
    chunk = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = column < D
    first = chunk * CHUNK
    after = first + CHUNK
    row = tl.load(sorted_ids + after - 1, after < count, other=-1).to(tl.int64)
    begins = (tl.load(sorted_ids + first, after < count, other=-2).to(tl.int64) != row) | (
        tl.load(sorted_ids + first - 1, (after < count) & (chunk > 0), other=-2).to(tl.int64) != row
    )
    goes_on = tl.load(sorted_ids + after, after < count, other=-2).to(tl.int64) == row
    if begins & goes_on & (row >= 0) & (row < table_rows) & (row != padding_idx):
        total = tl.load(tails + chunk * D + column, inside, other=0.0)
        following = chunk + 1
        while following * CHUNK < count:
            place = following + tl.arange(0, BLOCK_CHUNKS)
            there = place * CHUNK < count
            belongs = there & (tl.load(sorted_ids + place * CHUNK, there, other=-1).to(tl.int64) == row)
            parts = tl.load(heads + place[:, None] * D + column[None, :], belongs[:, None] & inside[None, :], other=0.0)
            total += tl.sum(parts, 0)
            complete = tl.sum(belongs.to(tl.int32), 0) == BLOCK_CHUNKS
            following = tl.where(complete, following + BLOCK_CHUNKS, count)
        tl.store(table + row * D + column, total, inside)


def table_gradient(grad: Tensor, ids: Tensor, table: Tensor, padding_idx: int) -> Tensor:
    """Sum of grad (N, D) over the tokens of each row of the table, in the order of the tokens."""
    count, width = grad.shape
    sorted_ids, order = torch.sort(ids, stable=True)
    chunks = triton.cdiv(count, _CHUNK)
    grad_table = table.new_zeros(table.shape)
    heads = grad.new_empty((chunks, width), dtype=torch.float32)
    tails = torch.empty_like(heads)
    columns = min(_COLUMNS, triton.next_power_of_2(width))
    grid = (chunks, triton.cdiv(width, columns))
    places, sizes = (sorted_ids, grad_table, heads, tails), (count, table.shape[0], padding_idx)
    tile = {"D": width, "CHUNK": _CHUNK, "BLOCK_D": columns}
    chunk_sums_kernel[grid](grad, order, *places, *sizes, **tile, num_warps=1)
    join_kernel[grid](*places, *sizes, **tile, BLOCK_CHUNKS=_HEADS, num_warps=4)
    return grad_table
