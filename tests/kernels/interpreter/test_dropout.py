"""The kernels' hash is the PyTorch one, bit for bit."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from minitrans_kernels.dropout import dropout_mask, threshold
from minitrans_kernels.dropout_kernel import column_keys, keep, row_keys


@triton.jit
def write_mask(out, seed, rows, columns, bound, BLOCK: tl.constexpr):
    stream = tl.program_id(0)
    start = tl.program_id(1) * BLOCK
    row = start + tl.arange(0, BLOCK)
    column = tl.arange(0, BLOCK)
    number = tl.load(seed)
    kept = keep(row_keys(number, stream, row)[:, None], column_keys(number, stream, column)[None, :], bound)
    place = out + stream * rows * columns + row[:, None] * columns + column[None, :]
    tl.store(place, kept.to(tl.int8), mask=(row[:, None] < rows) & (column[None, :] < columns))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x1234567890ABCDEF])
@pytest.mark.parametrize("p", [0.0, 2.0**-32, 0.1, 0.5, 0.9, 1 - 2.0**-40])
def test_kernel_and_pytorch_drop_the_same(seed: int, p: float):
    out = torch.full((2, 3, 53, 29), 7, dtype=torch.int8)
    write_mask[(6, 2)](out, torch.tensor([seed]), 53, 29, threshold(p), BLOCK=32)
    assert torch.equal(out, dropout_mask((2, 3, 53, 29), p, seed).to(torch.int8))
