"""The kernels of `bias_gradients`, and dS = P ∘ (dP - delta), recomputed from the log-sum-exp."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.call import Place
from minitrans_kernels.attention.tiles import (
    in_structure,
    kept,
    key_exists,
    load_lse,
    load_statistic,
    scores,
    sequence_data,
    weights,
)


@triton.jit
def bias_gradient_kernel(
    call, target, part_stride, target_batch, target_heads, share, grad, lse, delta,
    block: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes one tile of `target` (a Grid), the sum over the batch, the heads, both or neither, or a share of it."""
    tiles_n = tl.cdiv(call.keys, block)
    tiles = tl.cdiv(call.queries, block) * tiles_n
    tile = tl.program_id(0) % tiles
    i = tile // tiles_n * block + tl.arange(0, block)
    j = tile % tiles_n * block + tl.arange(0, block)
    head = tl.program_id(0) // tiles % target_heads
    sequence = tl.program_id(0) // tiles // target_heads % target_batch
    part = tl.program_id(0) // tiles // target_heads // target_batch
    heads = call.heads // target_heads

    total = tl.zeros([block, block], tl.float32)
    for summand in tl.range(part * share, tl.minimum(part * share + share, call.batch // target_batch * heads)):
        place = _place(call, sequence + summand // heads, head + summand % heads)
        if _meets(call, place, tile // tiles_n * block, tile % tiles_n * block, block):
            total += _score_gradient(call, place, i, j, grad, lse, delta, block, width, chunk, precision)

    rows = tl.cast(i, tl.int64)[:, None] * target.row
    columns = tl.cast(j, tl.int64)[None, :] * target.column
    data = target.data + tl.cast(part, tl.int64) * part_stride + tl.cast(sequence, tl.int64) * target.batch
    data += tl.cast(head, tl.int64) * target.head
    inside = (i[:, None] < call.queries) & (j[None, :] < call.keys)
    tl.store(data + rows + columns, total.to(target.data.dtype.element_ty), mask=inside)


@triton.jit
def diagonal_gradient_kernel(
    call, partials, lowest, bands, segments, share, grad, lse, delta,
    block: tl.constexpr, segment: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes partials[part, :, head, band · block : (band + 1) · block]: the sums along the diagonals of a band's tiles.

    With D the distance (lowest + band) · block, number c is that of distance D + c at 0 and of D + c - block at 1.
    """
    band = tl.program_id(0) % bands
    head = tl.program_id(0) // bands % call.heads
    part = tl.program_id(0) // bands // call.heads
    nearest = (band + lowest) * block
    i = tl.arange(0, block)
    total = tl.zeros([block, block], tl.float32)
    for summand in range(part * share, tl.minimum(part * share + share, call.batch * segments)):
        place = _place(call, summand // segments, head)
        begin, end = _band_range(call, place, nearest, block)
        begin = tl.maximum(begin, summand % segments * segment)
        end = tl.minimum(end, summand % segments * segment + segment)
        apart = nearest + place.keys - place.queries
        for start in tl.range(begin, end, block):
            j = start + apart + i
            j = tl.where(j < 0, place.keys, j)  # as good as past the end
            total += _score_gradient(call, place, start + i, j, grad, lse, delta, block, width, chunk, precision)

    # row a one place to the left for each row above it, as on a ring: then a column holds two diagonals
    column = i[None, :]
    ring = tl.gather(total, (i[:, None] + column) & (block - 1), 1)
    ahead = i[:, None] + column < block
    target = partials + (tl.cast(part, tl.int64) * 2 * call.heads + head) * bands * block + band * block + i
    tl.store(target, tl.sum(tl.where(ahead, ring, 0.0), 0))
    tl.store(target + tl.cast(call.heads, tl.int64) * bands * block, tl.sum(tl.where(ahead, 0.0, ring), 0))


@triton.jit
def diagonal_sum_kernel(partials, gradient, parts, heads, bands, lowest, queries, keys, block: tl.constexpr):
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
def _place(call, sequence, head):
    """The place of a sequence as a whole."""
    first_query = 0
    first_key = 0
    queries = call.queries
    keys = call.keys
    if call.starts_q is not None:
        first_query = tl.load(call.starts_q + sequence)
        first_key = tl.load(call.starts_k + sequence)
        queries = tl.load(call.starts_q + sequence + 1) - first_query
        keys = tl.load(call.starts_k + sequence + 1) - first_key
    return Place(sequence, head, 0, first_query, queries, first_key, keys)


@triton.jit
def _real_keys(call, place):
    """(first, end) of the keys that are not padding."""
    begin = 0
    end = place.keys
    if call.extents is not None:
        begin = tl.load(call.extents + place.sequence * 3)
        end = tl.load(call.extents + place.sequence * 3 + 1)
    return begin, end


@triton.jit
def _meets(call, place, start_m, start_n, block: tl.constexpr):
    """Whether any of these queries may see any of these keys; at least where they may."""
    meets = True
    if call.starts_q is not None or call.extents is not None or call.structured:
        begin, end = _real_keys(call, place)
        nearest = start_n - (start_m + place.keys - place.queries + block - 1)
        meets = _distances_meet(call, nearest, nearest + 2 * block - 2)
        meets = meets & (start_m < place.queries) & (start_n < end) & (start_n + block > begin)
    return meets


@triton.jit
def _band_range(call, place, nearest, block: tl.constexpr):
    """(begin, end) of the queries, from a multiple of `block` on, whose tiles in the band hold keys that they may see."""
    begin, end = _real_keys(call, place)
    apart = nearest + place.keys - place.queries
    end = tl.minimum(place.queries, end - apart)
    end = tl.where(_distances_meet(call, nearest - block + 1, nearest + block - 1), end, 0)
    return (tl.maximum(begin - apart - block + 1, 0) + block - 1) // block * block, end


@triton.jit
def _distances_meet(call, nearest, farthest):
    """Whether causal and window allow any distance of a range."""
    meets = nearest <= farthest
    if call.causal:
        meets = meets & (nearest <= 0)
    if call.global_tokens is None:
        if call.right is not None:
            meets = meets & (nearest <= call.right)
        if call.left is not None:
            meets = meets & (farthest >= -call.left)
    return meets


@triton.jit
def _score_gradient(
    call, place, i, j, grad, lse, delta,
    block: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """dS of queries i and keys j, float32; zero where the mask forbids."""
    products = _products(call, place, call.query, call.key, i, j, block, width, chunk, precision)
    score, _ = scores(call, place, products, i, j, False)
    allowed = key_exists(call, place, j)[None, :]
    if call.structured:
        allowed = allowed & in_structure(call, place, i, j, False)
    lse_data = sequence_data(lse, place.sequence, place.head, place.first_query)
    shift = load_lse(call, lse_data, lse.token, i, place.queries)[:, None]
    probability = tl.where(allowed, weights(call, score, shift), 0.0)
    grad_probability = _products(call, place, grad, call.value, i, j, block, width, chunk, precision)
    if call.dropout is not None:
        keeps = kept(call, place, i, j, False)
        grad_probability = tl.where(keeps, grad_probability * call.dropout.factor, 0.0)
    delta_data = sequence_data(delta, place.sequence, place.head, place.first_query)
    return probability * (grad_probability - load_statistic(delta_data, delta.token, i, place.queries, 0.0)[:, None])


@triton.jit
def _products(
    call, place, of_query, of_key, i, j,
    block: tl.constexpr, width: tl.constexpr, chunk: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """The inner products of rows i of a View like query and rows j of one like key, by `chunk` columns at a time."""
    left = sequence_data(of_query, place.sequence, place.head, place.first_query)
    right = sequence_data(of_key, place.sequence, place.head // call.group, place.first_key)
    left += tl.cast(i, tl.int64)[:, None] * of_query.token
    right += tl.cast(j, tl.int64)[:, None] * of_key.token
    total = tl.zeros([block, block], tl.float32)
    for begin in tl.static_range(0, width, chunk):
        column = begin + tl.arange(0, chunk)[None, :]
        row_mask = (i < place.queries)[:, None]
        key_mask = (j < place.keys)[:, None]
        if call.head_width < width:
            row_mask = row_mask & (column < call.head_width)
            key_mask = key_mask & (column < call.head_width)
        row = tl.load(left + column * of_query.column, mask=row_mask, other=0.0)
        key = tl.load(right + column * of_key.column, mask=key_mask, other=0.0)
        total = tl.dot(row, tl.trans(key), total, input_precision=precision)
    return total
