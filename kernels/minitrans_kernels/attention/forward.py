"""Attention forward: one program owns a block of queries of one head and sweeps the keys (FlashAttention-2, Dao 2023).

Symbols as in minitrans/attention/online_softmax.py: of the keys seen so far m_i is the largest score of query i, l_i the sum
of exp(s_ij - m_i), o_i that of exp(s_ij - m_i) v_j; a tile that raises m_i shrinks both by alpha = exp(m_i - m_new).
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.kernel_args import LN_2
from minitrans_kernels.attention.tiles import (
    in_structure,
    indexed_tiles,
    kept,
    key_exists,
    key_range,
    load_keys,
    load_queries,
    query_tile,
    scores,
    store_queries,
    store_statistic,
    weights,
)


@triton.jit
def forward_kernel(
    args, out, lse, index, block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr
):
    """Writes `block_m` rows of out (like query) and of lse."""
    tile = query_tile(args, block_m)
    if tile.start >= tile.queries:
        return
    q_i = load_queries(args, args.query, tile, tile.start, block_m, width, True)
    m_i = tl.full([block_m], float("-inf"), tl.float32)
    l_i = tl.zeros([block_m], tl.float32)
    o_i = tl.zeros([block_m, width], tl.float32)
    if index is not None:
        tiles, count = indexed_tiles(index, tile, block_m)
        o_i, l_i, m_i = _sweep(
            args, tile, q_i, tiles, 0, count, o_i, l_i, m_i, block_m, block_n, width, precision, True
        )
    else:
        begin, full_begin, full_end, end = key_range(args, tile, block_m, block_n)
        if args.left is not None:
            o_i, l_i, m_i = _sweep(
                args, tile, q_i, None, begin, full_begin, o_i, l_i, m_i, block_m, block_n, width, precision, True
            )
        o_i, l_i, m_i = _sweep(
            args, tile, q_i, None, full_begin, full_end, o_i, l_i, m_i, block_m, block_n, width, precision, False
        )
        o_i, l_i, m_i = _sweep(
            args, tile, q_i, None, full_end, end, o_i, l_i, m_i, block_m, block_n, width, precision, True
        )

    l_i = tl.where(l_i == 0, 1.0, l_i)  # nothing allowed: o_i is 0 and m_i is -inf
    lse_i = tl.log2(l_i) * LN_2
    if args.folded:
        lse_i += m_i * (args.unit * LN_2)
    else:
        lse_i += m_i
    store_statistic(lse, tile, tile.start + tl.arange(0, block_m), lse_i)
    factor = 1 / l_i
    if args.dropout is not None:
        factor *= args.dropout.factor
    store_queries(args, out, tile, tile.start, o_i * factor[:, None], block_m, width)


@triton.jit
def _sweep(
    args, tile, q_i, tiles, begin, end, o_i, l_i, m_i,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """Online softmax (Milakov & Gimelshein 2018) over keys begin .. end - 1, or over tiles begin .. end - 1 of a list."""
    i = tile.start + tl.arange(0, block_m)
    step: tl.constexpr = block_n if tiles is None else 1
    # a loop that is skipped must not meet products of the one before in flight: ptxas would serialize them all
    if begin < end:
        for at in tl.range(begin, end, step):
            start = at
            if tiles is not None:
                start = tl.load(tiles + at) * block_n
            j = start + tl.arange(0, block_n)
            k_j = load_keys(args, args.key, tile, start, block_n, width, masked)
            products = tl.dot(q_i, tl.trans(k_j), input_precision=precision)
            s_ij, _ = scores(args, tile, products, i, j, False)
            if masked:
                allowed = key_exists(args, tile, j)[None, :]
                if args.structured:
                    allowed = allowed & in_structure(args, tile, i, j, False)
                s_ij = tl.where(allowed, s_ij, float("-inf"))
            m_new = tl.maximum(m_i, tl.max(s_ij, 1))
            if masked or not args.folded:  # a row may have seen nothing but -inf, and -inf - -inf is NaN
                m_safe = tl.where(m_new == float("-inf"), 0.0, m_new)
            else:
                m_safe = m_new
            p_ij = weights(args, s_ij, (m_safe * args.unit if args.folded else m_safe)[:, None])
            alpha = tl.exp2((m_i - m_safe) * args.unit)
            l_i = l_i * alpha + tl.sum(p_ij, 1)
            if args.dropout is not None:
                p_ij = tl.where(kept(args, tile, i, j, False), p_ij, 0.0)
            v_j = load_keys(args, args.value, tile, start, block_n, width, masked)
            o_i = tl.dot(p_ij.to(v_j.dtype), v_j, o_i * alpha[:, None], input_precision=precision)
            m_i = m_new
    return o_i, l_i, m_i
