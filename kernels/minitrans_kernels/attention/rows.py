"""Exact probabilities of some query rows, from the log-sum-exp that the forward kept: exp(score - lse)."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.attention.call import Place
from minitrans_kernels.attention.preparation import device_of, precision_of, prepare, statistic_view, width_of
from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.attention.tiles import (
    in_structure,
    key_exists,
    load_lse,
    load_rows,
    scores,
    sequence_data,
    weights,
)

# Every product is done once and its tile written out, so that little depends on the size of a tile. 64 rows are the least
# that Hopper's matrix instructions take; true float32 has none, and would run out of registers.
_BLOCK_M, _BLOCK_M_FLOAT32, _BLOCK_N = 64, 16, 64


def probabilities(problem: Problem, lse: Tensor, rows: Tensor) -> Tensor:
    """(B, H, R, S) float32 for rows (R) or (B, R) of a call that is not packed; a row that does not exist gives zeros."""
    count = rows.shape[-1]
    out = torch.empty(
        problem.batch, problem.heads, count, problem.max_seqlen_k, dtype=torch.float32, device=problem.query.device
    )
    if out.numel() == 0:
        return out
    precision = precision_of(problem)
    float32 = problem.query.dtype == torch.float32 and precision == "ieee"
    block_m = _BLOCK_M_FLOAT32 if float32 else _BLOCK_M
    tiles = triton.cdiv(count, block_m) * triton.cdiv(problem.max_seqlen_k, _BLOCK_N)
    with device_of(problem):
        rows_kernel[(tiles * problem.batch * problem.heads,)](
            prepare(problem),
            statistic_view(lse, False),
            rows,
            rows.stride(0) if rows.dim() == 2 else 0,
            rows.stride(-1),
            count,
            out,
            block_m=block_m,
            block_n=_BLOCK_N,
            width=width_of(problem),
            precision=precision,
            num_warps=4,
            num_stages=1,
            enable_fp_fusion=True,
        )
    return out


@triton.jit
def rows_kernel(
    call, lse, rows, rows_batch, rows_step, count, out,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes `block_m` of the `count` rows times `block_n` keys of one head of `out`, (B, H, count, S) and contiguous."""
    key_tiles = tl.cdiv(call.keys, block_n)
    program = tl.program_id(0)
    start = program % key_tiles * block_n
    row_tiles = tl.cdiv(count, block_m)
    wanted = program // key_tiles % row_tiles * block_m + tl.arange(0, block_m)
    stream = program // key_tiles // row_tiles
    place = Place(stream // call.heads, stream % call.heads, start, 0, call.queries, 0, call.keys)

    pointers = rows + tl.cast(place.sequence, tl.int64) * rows_batch + tl.cast(wanted, tl.int64) * rows_step
    i = tl.load(pointers, mask=wanted < count, other=-1)
    # a query that does not exist sees nothing
    i = tl.where((i >= 0) & (i < call.queries), i, call.queries).to(tl.int32)
    j = start + tl.arange(0, block_n)

    columns = tl.arange(0, width)[None, :]
    query = sequence_data(call.query, place.sequence, place.head, 0)
    query += tl.cast(i, tl.int64)[:, None] * call.query.token + columns * call.query.column
    query = tl.load(query, mask=(i < call.queries)[:, None] & (columns < call.head_width), other=0.0)
    key = sequence_data(call.key, place.sequence, place.head // call.group, 0)
    key = load_rows(key, call.key.token, call.key.column, start, call.keys, block_n, width, call.head_width, True)

    products = tl.dot(query, tl.trans(key), input_precision=precision)
    score, _ = scores(call, place, products, i, j, False)
    allowed = key_exists(call, place, j)[None, :]
    if call.structured:
        allowed = allowed & in_structure(call, place, i, j, False)
    score = tl.where(allowed, score, float("-inf"))
    base = load_lse(call, sequence_data(lse, place.sequence, place.head, 0), lse.token, i, call.queries)
    values = weights(call, score, base[:, None])
    target = out + (tl.cast(stream, tl.int64) * count + wanted)[:, None] * call.keys + j[None, :]
    tl.store(target, values, mask=(wanted < count)[:, None] & (j < call.keys)[None, :])
