"""Copies rows to or from given places."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.layers import launching


@triton.jit
def copy_rows_kernel(
    source, indices, target, count, places, source_stride,
    D: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_D: tl.constexpr, SCATTER: tl.constexpr,
):  # fmt: skip
    """target[i] = source[indices[i]], or where SCATTER target[indices[i]] = source[i]; no index outside `places` is followed."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    place = tl.load(indices + row, row < count, other=-1).to(tl.int64)
    exists = (row < count) & (place >= 0) & (place < places)
    inside = (column < D)[None, :]
    if SCATTER:
        value = tl.load(source + row[:, None] * source_stride + column[None, :], exists[:, None] & inside, other=0)
        tl.store(target + place[:, None] * D + column[None, :], value, exists[:, None] & inside)
    else:
        value = tl.load(source + place[:, None] * source_stride + column[None, :], exists[:, None] & inside, other=0)
        tl.store(target + row[:, None] * D + column[None, :], value, (row < count)[:, None] & inside)


def copy_rows(source: Tensor, indices: Tensor, target: Tensor, *, scatter: bool) -> Tensor:
    """`target`, (N, D) with the rows `indices` (N) of source in it, or where scatter with the rows of source at `indices`.

    An index that is no row gives zeros, or is left out.
    """
    rows = launching.contiguous_rows(source.view(torch.uint8) if source.dtype == torch.bool else source)
    places = (target if scatter else source).shape[0]
    tile = launching.row_tile(max(1, min(rows.shape[1], launching.COLUMNS)), launching.FORWARD_TILE)
    grid = (triton.cdiv(indices.shape[0], tile["BLOCK_ROWS"]), triton.cdiv(rows.shape[1], tile["BLOCK_D"]))
    with launching.on(source.device):
        copy_rows_kernel[grid](
            rows, indices.contiguous(), target.view(rows.dtype), indices.shape[0], places, rows.stride(0),
            D=rows.shape[1], SCATTER=scatter, **tile,
        )  # fmt: skip
    return target
