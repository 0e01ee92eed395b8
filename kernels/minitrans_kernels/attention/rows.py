"""Exact probabilities of some query rows, from the log-sum-exp that the forward kept: exp(score - lse)."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.attention.call import Place
from minitrans_kernels.attention.preparation import device_of, precision_of, prepare, statistic_view, width_of
from minitrans_kernels.attention.problem import Problem, sequences_of
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
_TILE, _TILE_FLOAT32 = (64, 64), (16, 32)
# all there are: left to itself the assembler may spill to fit more programs on a processor
_REGISTERS = 255
_PRODUCTS = 8192  # of one row of a packed batch, keys times width: 64 registers a thread


def probabilities(problem: Problem, lse: Tensor, rows: Tensor) -> Tensor:
    """Float32, as `Problem.shape_of_rows` says; a row that does not exist gives zeros."""
    out = torch.empty(problem.shape_of_rows(rows), dtype=torch.float32, device=problem.query.device)
    if out.numel():
        (_of_tokens if problem.packed else _of_rectangles)(problem, lse, rows, out)
    return out


def _of_rectangles(problem: Problem, lse: Tensor, rows: Tensor, out: Tensor) -> None:
    """Fills out (B, H, R, S) for rows (R) or (B, R)."""
    count = rows.shape[-1]
    precision = precision_of(problem)
    float32 = problem.query.dtype == torch.float32 and precision == "ieee"
    block_m, block_n = _TILE_FLOAT32 if float32 else _TILE
    tiles = triton.cdiv(count, block_m) * triton.cdiv(problem.max_seqlen_k, block_n)
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
            block_n=block_n,
            width=width_of(problem),
            precision=precision,
            num_warps=4,
            num_stages=1,
            maxnreg=_REGISTERS,
            enable_fp_fusion=True,
        )


def _of_tokens(problem: Problem, lse: Tensor, rows: Tensor, out: Tensor) -> None:
    """Fills out (R, H, S) for rows (R) of a packed batch."""
    assert problem.cu_seqlens_q is not None
    width = width_of(problem)
    block_n = _PRODUCTS // width
    tiles = triton.cdiv(problem.max_seqlen_k, block_n)
    with device_of(problem):
        packed_rows_kernel[(tiles * problem.heads * rows.shape[0],)](
            prepare(problem),
            statistic_view(lse, True),
            rows,
            rows.stride(0),
            sequences_of(rows, problem.cu_seqlens_q),
            out,
            block_n=block_n,
            width=width,
            num_warps=4,
            num_stages=1,
            enable_fp_fusion=True,
        )


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
    values = _probabilities(call, place, products, lse, i, j)
    target = out + (tl.cast(stream, tl.int64) * count + wanted)[:, None] * call.keys + j[None, :]
    tl.store(target, values, mask=(wanted < count)[:, None] & (j < call.keys)[None, :])


@triton.jit
def packed_rows_kernel(call, lse, rows, rows_step, sequences, out, block_n: tl.constexpr, width: tl.constexpr):
    """Writes one row times `block_n` keys of one head of `out`, (R, H, S) and contiguous.

    Rows of a packed batch may have different keys, each row is a program's own.
    """
    key_tiles = tl.cdiv(call.keys, block_n)
    program = tl.program_id(0)
    start = program % key_tiles * block_n
    head = program // key_tiles % call.heads
    wanted = tl.cast(program // key_tiles // call.heads, tl.int64)

    sequence = tl.load(sequences + wanted)
    exists = (sequence >= 0) & (sequence < call.batch)
    first = tl.load(call.starts_q + sequence, mask=exists, other=0)
    queries = tl.load(call.starts_q + sequence + 1, mask=exists, other=0) - first
    first_key = tl.load(call.starts_k + sequence, mask=exists, other=0)
    keys = tl.load(call.starts_k + sequence + 1, mask=exists, other=0) - first_key
    place = Place(sequence, head, start, first, queries, first_key, keys)
    own = tl.where(exists, tl.load(rows + wanted * rows_step) - first, 0).to(tl.int32)
    i = own + tl.arange(0, 1)
    j = start + tl.arange(0, block_n)

    query = sequence_data(call.query, sequence, head, first)
    query = load_rows(query, call.query.token, call.query.column, own, queries, 1, width, call.head_width, True)
    key = sequence_data(call.key, sequence, head // call.group, first_key)
    key = load_rows(key, call.key.token, call.key.column, start, keys, block_n, width, call.head_width, True)

    products = tl.sum(query.to(tl.float32) * key.to(tl.float32), 1)[None, :]
    values = _probabilities(call, place, products, lse, i, j)
    target = out + (wanted * call.heads + head) * call.keys + j[None, :]
    tl.store(target, values, mask=(j < call.keys)[None, :])


@triton.jit
def _probabilities(call, place, products, lse, i, j):
    """(i, j) probabilities of query·key products."""
    score, _ = scores(call, place, products, i, j, False)
    allowed = key_exists(call, place, j)[None, :]
    if call.structured:
        allowed = allowed & in_structure(call, place, i, j, False)
    score = tl.where(allowed, score, float("-inf"))
    base = sequence_data(lse, place.sequence, place.head, place.first_query)
    return weights(call, score, load_lse(call, base, lse.token, i, place.queries)[:, None])
