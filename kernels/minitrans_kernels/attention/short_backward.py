"""Backward of short sequences in one pass: a program owns a whole sequence in one head.

The split backward recomputes the scores twice, once for the gradients of keys and values and once for that of the queries:
seven products of matrices where five would do. Here one program holds a tile of keys, walks over the queries and adds to
their gradients as it passes, in float32 scratch of its own. Nobody else adds to them, so there are no atomics, and each
sum has one order. The price is that parallelism is B·H programs: for sequences of up to 512 tokens, in batches.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.backward import fill_delta
from minitrans_kernels.attention.tiles import (
    in_structure,
    kept,
    key_exists,
    load_keys,
    load_lse,
    load_queries,
    load_statistic,
    real_keys,
    scores,
    store_keys,
    store_queries,
    weights,
    whole_sequence,
)


@triton.jit
def short_backward_kernel(
    args, out, lse, grad_out, grad_lse, delta, grad_query, grad_key, grad_value, scratch,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes delta and the gradients of one sequence in one head; `scratch` is None where the keys are a single tile.

    Tiles of keys one after the other, and for each the range of queries that may see it. Neither end of that range falls
    from one tile to the next, so a query tile before `touched` has been met or never will be, and one before the begin
    of the next range is complete.
    """
    tile = whole_sequence(args, tl.program_id(0) // args.heads, tl.program_id(0) % args.heads)
    begin, end = real_keys(args, tile)
    if args.starts_q is not None:
        end = tl.where(tile.sequence < args.batch, end, 0)
    partial = None
    if scratch is not None:
        tiles = tl.cdiv(args.queries, block_m)
        partial = scratch + tl.cast(tl.program_id(0), tl.int64) * tiles * (block_m * width)
    for row in range(0, tile.queries, block_m):
        fill_delta(args, tile, out, grad_out, grad_lse, delta, row, block_m, width)
    # what one thread of this program wrote, to delta here and to `partial` below, others read
    tl.debug_barrier()
    touched = 0
    for start in range(0, tile.keys, block_n):
        first, stop = _visible_queries(args, tile, start, begin, end, touched, block_m, block_n)
        _clear(args, grad_query, tile, touched, tl.minimum(first, tile.queries), block_m, width)
        complete, _ = _visible_queries(args, tile, start + block_n, begin, end, tile.queries, block_m, block_n)
        _sweep_queries(
            args, tile, grad_query, grad_key, grad_value, partial, grad_out, lse, delta,
            start, first, stop, touched, complete, block_m, block_n, width, precision,
        )  # fmt: skip
        touched = tl.maximum(touched, tl.maximum(first, tl.cdiv(stop, block_m) * block_m))
        tl.debug_barrier()
    _clear(args, grad_query, tile, touched, tile.queries, block_m, width)


@triton.jit
def _visible_queries(args, tile, start, begin, end, otherwise, block_m: tl.constexpr, block_n: tl.constexpr):
    """(first, end) of the queries, from a multiple of `block_m` on, that may see the tile of keys; else `otherwise` twice."""
    first = 0
    stop = tile.queries
    shift = tile.keys - tile.queries
    if args.causal:
        first = tl.maximum(first, start - shift)
    if args.global_tokens is None:
        if args.right is not None:
            first = tl.maximum(first, start - shift - args.right)
        if args.left is not None:
            stop = tl.minimum(stop, tl.minimum(start + block_n, tile.keys) - shift + args.left)
    visible = (start < end) & (start + block_n > begin)
    return tl.where(visible, first // block_m * block_m, otherwise), tl.where(visible, stop, otherwise)


@triton.jit
def _clear(args, tensor, tile, start, end, block_m: tl.constexpr, width: tl.constexpr):
    """Writes zeros to the rows start .. end - 1."""
    zeros = tl.zeros([block_m, width], tl.float32)
    for row in range(start, end, block_m):
        store_queries(args, tensor, tile, row, zeros, block_m, width)


@triton.jit
def _sweep_queries(
    args, tile, grad_query, grad_key, grad_value, partial, grad_out, lse, delta,
    start, first, stop, touched, complete,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of the keys and values from `start` on, and adds to those of queries first .. stop - 1.

    Scores lie with a key to a row, so that no product of a product is transposed.
    """
    j = start + tl.arange(0, block_n)
    exists = key_exists(args, tile, j)[:, None]
    k_j = load_keys(args, args.key, tile, start, block_n, width, True)
    v_j = load_keys(args, args.value, tile, start, block_n, width, True)
    dk_j = tl.zeros([block_n, width], tl.float32)
    dv_j = tl.zeros([block_n, width], tl.float32)
    for row in tl.range(first, stop, block_m):
        i = row + tl.arange(0, block_m)
        q_i = load_queries(args, args.query, tile, row, block_m, width, True)
        do_i = load_queries(args, grad_out, tile, row, block_m, width, True)
        products = tl.dot(k_j, tl.trans(q_i), input_precision=precision)
        s_ij, squashed = scores(args, tile, products, i, j, True)
        allowed = exists
        if args.structured:
            allowed = allowed & in_structure(args, tile, i, j, True)
        p_ij = tl.where(allowed, weights(args, s_ij, load_lse(args, lse, tile, i)[None, :]), 0.0)
        dp_ij = tl.dot(v_j, tl.trans(do_i), input_precision=precision)
        kept_ij = p_ij
        if args.dropout is not None:
            keep = kept(args, tile, i, j, True)
            kept_ij = tl.where(keep, p_ij, 0.0)
            dp_ij = tl.where(keep, dp_ij * args.dropout.factor, 0.0)
        dv_j = tl.dot(kept_ij.to(do_i.dtype), do_i, dv_j, input_precision=precision)
        ds_ij = p_ij * (dp_ij - load_statistic(delta, tile, i, 0.0)[None, :])
        if args.softcap is not None:
            ds_ij *= 1 - squashed * squashed
        ds_ij = ds_ij.to(q_i.dtype)
        dk_j = tl.dot(ds_ij, q_i, dk_j, input_precision=precision)
        dq_i = tl.dot(tl.trans(k_j), ds_ij, input_precision=precision)  # (width, block_m)
        if partial is not None:
            pointers = partial + row * width + tl.arange(0, width)[:, None] * block_m + tl.arange(0, block_m)[None, :]
            dq_i += tl.load(pointers, mask=row < touched, other=0.0)
            tl.store(pointers, dq_i, mask=row >= complete)
        if row < complete:
            store_queries(args, grad_query, tile, row, tl.trans(dq_i) * args.scale, block_m, width)
    if args.dropout is not None:
        dv_j *= args.dropout.factor
    store_keys(args, grad_key, tile, start, dk_j * args.scale, block_n, width)
    store_keys(args, grad_value, tile, start, dv_j, block_n, width)
