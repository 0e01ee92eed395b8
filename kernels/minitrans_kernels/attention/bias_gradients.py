"""Gradients of what is added to the scores: of a dense bias, and of one number per head and distance.

Both are sums of dS = P ∘ (dP - delta) over everything the added number was used for, and recompute dS from the
log-sum-exp. A program owns a tile of the result and meets its summands one after the other, so that the order of the sum,
and with it every bit, is fixed. Where a result has few tiles, several programs share the summands of one: each writes a
partial sum of its own, and those are added in order. How many there are depends on the sizes alone, not on the device.

Distances: a program owns the tiles of one head whose first key and first query stand equally far apart. In all of them the
element (a, b) lies on the same diagonal, so that it adds up whole tiles and sums the total along its diagonals once at the
end. Memory is O(T + S).
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.tiles import (
    in_structure,
    kept,
    key_exists,
    load_lse,
    load_statistic,
    real_keys,
    scores,
    sequence_data,
    weights,
    whole_sequence,
)


@triton.jit
def bias_gradient_kernel(
    args, target, part_stride, target_batch, target_heads, share, grad_out, lse, delta,
    block: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes one tile of `target` (a StridedTensor), the sum over the batch, the heads, both or neither, or a share of it."""
    tiles_n = tl.cdiv(args.keys, block)
    tiles = tl.cdiv(args.queries, block) * tiles_n
    start_m = tl.program_id(0) % tiles // tiles_n * block
    start_n = tl.program_id(0) % tiles % tiles_n * block
    i = start_m + tl.arange(0, block)
    j = start_n + tl.arange(0, block)
    head = tl.program_id(0) // tiles % target_heads
    sequence = tl.program_id(0) // tiles // target_heads % target_batch
    part = tl.program_id(0) // tiles // target_heads // target_batch
    heads = args.heads // target_heads

    total = tl.zeros([block, block], tl.float32)
    for summand in tl.range(part * share, tl.minimum(part * share + share, args.batch // target_batch * heads)):
        tile = whole_sequence(args, sequence + summand // heads, head + summand % heads)
        if _meets(args, tile, start_m, start_n, block):
            total += _score_gradient(args, tile, i, j, grad_out, lse, delta, block, width, chunk, precision)

    rows = tl.cast(i, tl.int64)[:, None] * target.row
    columns = tl.cast(j, tl.int64)[None, :] * target.column
    data = target.data + tl.cast(part, tl.int64) * part_stride + tl.cast(sequence, tl.int64) * target.batch
    data += tl.cast(head, tl.int64) * target.head
    inside = (i[:, None] < args.queries) & (j[None, :] < args.keys)
    tl.store(data + rows + columns, total.to(target.data.dtype.element_ty), mask=inside)


@triton.jit
def distance_gradient_kernel(
    args, partials, lowest, bands, segments, share, grad_out, lse, delta,
    block: tl.constexpr, segment: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes partials[part, :, head, band · block : (band + 1) · block]: the sums along the distance_bias of a band's tiles.

    With D the distance (lowest + band) · block, number c is that of distance D + c at 0 and of D + c - block at 1.
    """
    band = tl.program_id(0) % bands
    head = tl.program_id(0) // bands % args.heads
    part = tl.program_id(0) // bands // args.heads
    nearest = (band + lowest) * block
    i = tl.arange(0, block)
    total = tl.zeros([block, block], tl.float32)
    for summand in range(part * share, tl.minimum(part * share + share, args.batch * segments)):
        tile = whole_sequence(args, summand // segments, head)
        begin, end = _band_range(args, tile, nearest, block)
        begin = tl.maximum(begin, summand % segments * segment)
        end = tl.minimum(end, summand % segments * segment + segment)
        apart = nearest + tile.keys - tile.queries
        for start in tl.range(begin, end, block):
            j = start + apart + i
            j = tl.where(j < 0, tile.keys, j)  # as good as past the end
            total += _score_gradient(args, tile, start + i, j, grad_out, lse, delta, block, width, chunk, precision)

    # row a one place to the left for each row above it, as on a ring: then a column holds two diagonals
    column = i[None, :]
    ring = tl.gather(total, (i[:, None] + column) & (block - 1), 1)
    ahead = i[:, None] + column < block
    target = partials + (tl.cast(part, tl.int64) * 2 * args.heads + head) * bands * block + band * block + i
    tl.store(target, tl.sum(tl.where(ahead, ring, 0.0), 0))
    tl.store(target + tl.cast(args.heads, tl.int64) * bands * block, tl.sum(tl.where(ahead, 0.0, ring), 0))


@triton.jit
def distance_sum_kernel(partials, gradient, parts, heads, bands, lowest, queries, keys, block: tl.constexpr):
    """Adds the partial sums of one band's distances, half of which come from the next band."""
    band = tl.program_id(0) % bands
    head = tl.program_id(0) // bands
    i = tl.arange(0, block)
    total = tl.zeros([block], tl.float32)
    for part in range(0, parts):
        own = partials + (tl.cast(part, tl.int64) * 2 * heads + head) * bands * block + band * block + i
        total += tl.load(own)
        total += tl.load(own + (tl.cast(heads, tl.int64) * bands + 1) * block, mask=band + 1 < bands, other=0.0)
    place = (lowest + band) * block + keys - 1 + i
    length = queries + keys - 1
    tl.store(gradient + tl.cast(head, tl.int64) * length + place, total, mask=(place >= 0) & (place < length))


@triton.jit
def _meets(args, tile, start_m, start_n, block: tl.constexpr):
    """Whether any of these queries may see any of these keys; at least where they may."""
    meets = True
    if args.starts_q is not None or args.extents is not None or args.structured:
        begin, end = real_keys(args, tile)
        nearest = start_n - (start_m + tile.keys - tile.queries + block - 1)
        meets = _distances_meet(args, nearest, nearest + 2 * block - 2)
        meets = meets & (start_m < tile.queries) & (start_n < end) & (start_n + block > begin)
    return meets


@triton.jit
def _band_range(args, tile, nearest, block: tl.constexpr):
    """(begin, end) of the queries, from a multiple of `block` on, whose tiles in the band hold keys that they may see."""
    begin, end = real_keys(args, tile)
    apart = nearest + tile.keys - tile.queries
    end = tl.minimum(tile.queries, end - apart)
    end = tl.where(_distances_meet(args, nearest - block + 1, nearest + block - 1), end, 0)
    return (tl.maximum(begin - apart - block + 1, 0) + block - 1) // block * block, end


@triton.jit
def _distances_meet(args, nearest, farthest):
    """Whether causal and window allow any distance of a range."""
    meets = nearest <= farthest
    if args.causal:
        meets = meets & (nearest <= 0)
    if args.global_tokens is None:
        if args.right is not None:
            meets = meets & (nearest <= args.right)
        if args.left is not None:
            meets = meets & (farthest >= -args.left)
    return meets


@triton.jit
def _score_gradient(
    args, tile, i, j, grad_out, lse, delta,
    block: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """dS of queries i and keys j, float32; zero where the mask forbids."""
    products = _products(args, tile, args.query, args.key, i, j, block, width, chunk, precision)
    s_ij, _ = scores(args, tile, products, i, j, False)
    allowed = key_exists(args, tile, j)[None, :]
    if args.structured:
        allowed = allowed & in_structure(args, tile, i, j, False)
    p_ij = tl.where(allowed, weights(args, s_ij, load_lse(args, lse, tile, i)[:, None]), 0.0)
    dp_ij = _products(args, tile, grad_out, args.value, i, j, block, width, chunk, precision)
    if args.dropout is not None:
        dp_ij = tl.where(kept(args, tile, i, j, False), dp_ij * args.dropout.factor, 0.0)
    return p_ij * (dp_ij - load_statistic(delta, tile, i, 0.0)[:, None])


@triton.jit
def _products(
    args, tile, left, right, i, j,
    block: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """The inner products of rows i of `left`, like query, and rows j of `right`, like key, by `chunk` columns at a time."""
    of_query = sequence_data(left, tile.sequence, tile.head, tile.first_query)
    of_key = sequence_data(right, tile.sequence, tile.head // args.group, tile.first_key)
    of_query += tl.cast(i, tl.int64)[:, None] * left.row
    of_key += tl.cast(j, tl.int64)[:, None] * right.row
    total = tl.zeros([block, block], tl.float32)
    for begin in tl.static_range(0, width, chunk):
        column = begin + tl.arange(0, chunk)[None, :]
        row_mask = (i < tile.queries)[:, None]
        key_mask = (j < tile.keys)[:, None]
        if args.head_width < width:
            row_mask = row_mask & (column < args.head_width)
            key_mask = key_mask & (column < args.head_width)
        row = tl.load(of_query + column * left.column, mask=row_mask, other=0.0)
        key = tl.load(of_key + column * right.column, mask=key_mask, other=0.0)
        total = tl.dot(row, tl.trans(key), total, input_precision=precision)
    return total
