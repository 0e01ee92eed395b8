"""Exact probabilities of query rows, all or some, from the log-sum-exp that the forward kept: exp(s_ij - lse_i)."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.kernel_args import TileCoords
from minitrans_kernels.attention.tiles import (
    in_structure,
    key_exists,
    load_keys,
    load_lse,
    query_tile,
    scores,
    sequence_data,
    weights,
    whole_sequence,
)


@triton.jit
def attention_weights_kernel(
    args, lse, rows, sequences, count, out,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes `block_m` rows times `block_n` keys of one head of `out` (B, H, R, S), or packed (H, R, M) full of zeros.

    `rows` is None, or (B|1, count) numbers of query rows in any order. Those of a packed batch may have different keys, each
    is a program's own; `sequences` says which has it.
    """
    start = tl.program_id(1) * block_n
    if rows is None:
        tile = query_tile(args, block_m)
        i = tile.start + tl.arange(0, block_m)
        target = tile.first_query + i
        wanted = i < tile.queries
    elif args.starts_q is None:
        tile, i, target = _rows_of_a_sample(args, rows, count, block_m)
        wanted = target < count
    else:
        tile, i, target = _row_of_any_sequence(args, rows, sequences, count, block_m)
        wanted = i < tile.queries
    if start >= tile.keys:
        return
    j = start + tl.arange(0, block_n)
    columns = tl.arange(0, width)[None, :]
    q_i = sequence_data(args.query, tile.sequence, tile.head, tile.first_query)
    q_i += tl.cast(i, tl.int64)[:, None] * args.query.row + columns * args.query.column
    q_i = tl.load(q_i, mask=(i < tile.queries)[:, None] & (columns < args.head_width), other=0.0)
    k_j = load_keys(args, args.key, tile, start, block_n, width, True)
    products = tl.dot(q_i, tl.trans(k_j), input_precision=precision)
    s_ij, _ = scores(args, tile, products, i, j, False)
    allowed = key_exists(args, tile, j)[None, :]
    if args.structured:
        allowed = allowed & in_structure(args, tile, i, j, False)
    s_ij = tl.where(allowed, s_ij, float("-inf"))
    p_ij = weights(args, s_ij, load_lse(args, lse, tile, i)[:, None])
    data = sequence_data(out, tile.sequence, tile.head, 0) + tile.first_key
    data += tl.cast(target, tl.int64)[:, None] * out.row + j[None, :]
    tl.store(data, p_ij, mask=wanted[:, None] & (j < tile.keys)[None, :])


@triton.jit
def _rows_of_a_sample(args, rows, count, block_m: tl.constexpr):
    """(their sequence, query rows i, places among the `count`); a row that does not exist is T, and sees nothing."""
    tiles = tl.cdiv(count, block_m)
    stream = tl.program_id(0) // tiles
    target = tl.program_id(0) % tiles * block_m + tl.arange(0, block_m)
    tile = whole_sequence(args, stream // args.heads, stream % args.heads)
    pointers = rows.data + tl.cast(tile.sequence, tl.int64) * rows.batch + tl.cast(target, tl.int64) * rows.row
    i = tl.load(pointers, mask=target < count, other=-1)
    return tile, tl.where((i >= 0) & (i < tile.queries), i, tile.queries).to(tl.int32), target


@triton.jit
def _row_of_any_sequence(args, rows, sequences, count, block_m: tl.constexpr):
    """As `_rows_of_a_sample`, of one row; no sequence has a row that does not exist, or it has no keys."""
    number = tl.program_id(0) % count
    sequence = tl.load(sequences + number)
    exists = (sequence >= 0) & (sequence < args.batch)
    sequence = tl.where(exists, sequence, 0)
    whole = whole_sequence(args, sequence, tl.program_id(0) // count)
    tile = TileCoords(
        sequence, whole.head, 0, whole.first_query, whole.queries, whole.first_key, tl.where(exists, whole.keys, 0)
    )
    lane = tl.arange(0, block_m)
    i = tl.load(rows.data + tl.cast(number, tl.int64) * rows.row) - tile.first_query
    return tile, tl.where(lane == 0, i, tile.queries).to(tl.int32), number + lane
