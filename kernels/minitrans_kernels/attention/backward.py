"""Attention backward from the log-sum-exp (FlashAttention, Dao et al. 2022, section 3.1), split in two so that no sum is shared.

With p_ij = exp(s_ij - lse_i) and dp_ij = do_i · v_j: ds_ij = p_ij (dp_ij - delta_i), delta_i = do_i · o_i - dlse_i. One kernel
owns blocks of queries and sums dq_i = scale · Σ ds_ij k_j over the keys; another owns blocks of keys and sums dk_j = scale ·
Σ ds_ij q_i and dv_j = Σ p_ij do_i over the queries, of every head of its group. Each sum has one owner and one order: the same
bits on every run.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.kernel_args import TileCoords
from minitrans_kernels.attention.tiles import (
    in_structure,
    indexed_tiles,
    kept,
    key_exists,
    key_range,
    key_tile,
    load_keys,
    load_lse,
    load_queries,
    load_statistic,
    query_range,
    query_tile,
    scores,
    store_keys,
    store_queries,
    store_statistic,
    weights,
)


@triton.jit
def delta_kernel(args, out, grad_out, grad_lse, delta, tokens, block: tl.constexpr, width: tl.constexpr):
    """Writes delta of `block` tokens of one head; sequences do not matter here, so a packed batch is one of N tokens."""
    tiles = tl.cdiv(tokens, block)
    program = tl.program_id(0)
    start = program % tiles * block
    tile = TileCoords(program // tiles // args.heads, program // tiles % args.heads, start, 0, tokens, 0, 0)
    fill_delta(args, tile, out, grad_out, grad_lse, delta, start, block, width)


@triton.jit
def fill_delta(args, tile, out, grad_out, grad_lse, delta, start, block: tl.constexpr, width: tl.constexpr):
    """(do_i, delta_i) of `block` queries from `start` on, of which delta is also written."""
    o_i = load_queries(args, out, tile, start, block, width, True)
    do_i = load_queries(args, grad_out, tile, start, block, width, True)
    i = start + tl.arange(0, block)
    delta_i = tl.sum(o_i.to(tl.float32) * do_i.to(tl.float32), 1)
    if grad_lse is not None:
        delta_i -= load_statistic(grad_lse, tile, i, 0.0)
    store_statistic(delta, tile, i, delta_i)
    return do_i, delta_i


@triton.jit
def grad_query_kernel(
    args, out, lse, grad_out, grad_lse, delta, grad_query, index,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes `block_m` rows of delta and of grad_query."""
    tile = query_tile(args, block_m)
    if tile.start >= tile.queries:
        return
    do_i, delta_i = fill_delta(args, tile, out, grad_out, grad_lse, delta, tile.start, block_m, width)
    lse_i = load_lse(args, lse, tile, tile.start + tl.arange(0, block_m))
    q_i = load_queries(args, args.query, tile, tile.start, block_m, width, True)
    dq_i = tl.zeros([block_m, width], tl.float32)
    if index is not None:
        tiles, count = indexed_tiles(index, tile, block_m)
        dq_i = _sweep_keys(
            args, tile, q_i, do_i, lse_i, delta_i, tiles, 0, count, dq_i, block_m, block_n, width, precision, True
        )
    else:
        begin, full_begin, full_end, end = key_range(args, tile, block_m, block_n)
        if args.left is not None:
            dq_i = _sweep_keys(
                args, tile, q_i, do_i, lse_i, delta_i, None, begin, full_begin, dq_i,
                block_m, block_n, width, precision, True,
            )  # fmt: skip
        dq_i = _sweep_keys(
            args, tile, q_i, do_i, lse_i, delta_i, None, full_begin, full_end, dq_i,
            block_m, block_n, width, precision, False,
        )  # fmt: skip
        dq_i = _sweep_keys(
            args, tile, q_i, do_i, lse_i, delta_i, None, full_end, end, dq_i, block_m, block_n, width, precision, True
        )
    store_queries(args, grad_query, tile, tile.start, dq_i * args.scale, block_m, width)


@triton.jit
def _sweep_keys(
    args, tile, q_i, do_i, lse_i, delta_i, tiles, begin, end, dq_i,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """Adds ds_ij k_j over keys begin .. end - 1, or over tiles begin .. end - 1 of a list."""
    i = tile.start + tl.arange(0, block_m)
    step: tl.constexpr = block_n if tiles is None else 1
    # a loop that is skipped must not meet products of the one before in flight: ptxas would serialize them all
    first: tl.constexpr = not masked and args.left is None
    if first or begin < end:
        for at in tl.range(begin, end, step):
            start = at
            if tiles is not None:
                start = tl.load(tiles + at) * block_n
            j = start + tl.arange(0, block_n)
            k_j = load_keys(args, args.key, tile, start, block_n, width, masked)
            v_j = load_keys(args, args.value, tile, start, block_n, width, masked)
            products = tl.dot(q_i, tl.trans(k_j), input_precision=precision)
            s_ij, squashed = scores(args, tile, products, i, j, False)
            if masked:
                allowed = key_exists(args, tile, j)[None, :]
                if args.structured:
                    allowed = allowed & in_structure(args, tile, i, j, False)
                s_ij = tl.where(allowed, s_ij, float("-inf"))
            p_ij = weights(args, s_ij, lse_i[:, None])
            dp_ij = tl.dot(do_i, tl.trans(v_j), input_precision=precision)
            if args.dropout is not None:
                dp_ij = tl.where(kept(args, tile, i, j, False), dp_ij * args.dropout.factor, 0.0)
            ds_ij = p_ij * (dp_ij - delta_i[:, None])
            if args.softcap is not None:
                ds_ij *= 1 - squashed * squashed
            dq_i = tl.dot(ds_ij.to(k_j.dtype), k_j, dq_i, input_precision=precision)
    return dq_i


@triton.jit
def grad_key_value_kernel(
    args, lse, grad_out, delta, grad_key, grad_value, index,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes `block_n` rows of grad_key and of grad_value."""
    tile = key_tile(args, block_n)
    if tile.start >= tile.keys:
        return
    k_j = load_keys(args, args.key, tile, tile.start, block_n, width, True)
    v_j = load_keys(args, args.value, tile, tile.start, block_n, width, True)
    dk_j = tl.zeros([block_n, width], tl.float32)
    dv_j = tl.zeros([block_n, width], tl.float32)
    exists = key_exists(args, tile, tile.start + tl.arange(0, block_n))[:, None]
    for member in range(0, args.group):
        at = TileCoords(
            tile.sequence, tile.head + member, tile.start, tile.first_query, tile.queries, tile.first_key, tile.keys
        )
        if index is not None:
            tiles, count = indexed_tiles(index, at, block_n)
            dk_j, dv_j = _sweep_queries(
                args, at, k_j, v_j, exists, lse, grad_out, delta, tiles, 0, count, dk_j, dv_j,
                block_m, block_n, width, precision, True, True,
            )  # fmt: skip
        else:
            begin, full_begin, full_end, end = query_range(args, at, block_m, block_n)
            if args.causal or args.right is not None:
                dk_j, dv_j = _sweep_queries(
                    args, at, k_j, v_j, exists, lse, grad_out, delta, None, begin, full_begin, dk_j, dv_j,
                    block_m, block_n, width, precision, True, True,
                )  # fmt: skip
            if args.left is None:
                dk_j, dv_j = _sweep_queries(
                    args, at, k_j, v_j, exists, lse, grad_out, delta, None, full_begin, end, dk_j, dv_j,
                    block_m, block_n, width, precision, True, False,
                )  # fmt: skip
            else:
                dk_j, dv_j = _sweep_queries(
                    args, at, k_j, v_j, exists, lse, grad_out, delta, None, full_begin, full_end, dk_j, dv_j,
                    block_m, block_n, width, precision, False, False,
                )  # fmt: skip
                dk_j, dv_j = _sweep_queries(
                    args, at, k_j, v_j, exists, lse, grad_out, delta, None, full_end, end, dk_j, dv_j,
                    block_m, block_n, width, precision, True, True,
                )  # fmt: skip

    # what a key past the end has summed means nothing; it has no part in any other's sum
    dk_j = tl.where(exists, dk_j * args.scale, 0.0)
    if args.dropout is not None:
        dv_j *= args.dropout.factor
    dv_j = tl.where(exists, dv_j, 0.0)
    store_keys(args, grad_key, tile, tile.start, dk_j, block_n, width)
    store_keys(args, grad_value, tile, tile.start, dv_j, block_n, width)


@triton.jit
def _sweep_queries(
    args, tile, k_j, v_j, exists, lse, grad_out, delta, tiles, begin, end, dk_j, dv_j,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
    partial: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """Adds ds_ij q_i and p_ij do_i over queries begin .. end - 1, or over tiles begin .. end - 1 of a list.

    A tile may hold rows past the last where `partial`: they have lse +inf, so no mask but that of loads. `masked` is for
    the structure of the call.
    """
    j = tile.start + tl.arange(0, block_n)
    step: tl.constexpr = block_m if tiles is None else 1
    # as in _sweep_keys: an unmasked loop follows that of the head before, or a masked one
    if masked or begin < end:
        for at in tl.range(begin, end, step):
            start = at
            if tiles is not None:
                start = tl.load(tiles + at) * block_m
            i = start + tl.arange(0, block_m)
            q_i = load_queries(args, args.query, tile, start, block_m, width, partial)
            do_i = load_queries(args, grad_out, tile, start, block_m, width, partial)
            products = tl.dot(k_j, tl.trans(q_i), input_precision=precision)
            s_ij, squashed = scores(args, tile, products, i, j, True)
            if args.extents is not None or args.starts_k is not None or not args.folded:
                # or it may weigh inf, which a plain product of zeros seldom does
                s_ij = tl.where(exists, s_ij, float("-inf"))
            if masked and args.structured:
                s_ij = tl.where(in_structure(args, tile, i, j, True), s_ij, float("-inf"))
            p_ij = weights(args, s_ij, load_lse(args, lse, tile, i)[None, :])
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
            dk_j = tl.dot(ds_ij.to(q_i.dtype), q_i, dk_j, input_precision=precision)
    return dk_j, dv_j
