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
    load_rows,
    load_statistic,
    scores,
    sequence_data,
    weights,
)


@triton.jit
def bias_gradient_kernel(
    call, target, chunk_stride, target_batch, target_heads, share, grad, lse, delta,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes one tile of `target` (a Grid), the sum over the batch, the heads, both or neither, or a share of it."""
    tiles_n = tl.cdiv(call.keys, block_n)
    tiles = tl.cdiv(call.queries, block_m) * tiles_n
    tile = tl.program_id(0) % tiles
    start_m = tile // tiles_n * block_m
    start_n = tile % tiles_n * block_n
    head = tl.program_id(0) // tiles % target_heads
    sequence = tl.program_id(0) // tiles // target_heads % target_batch
    chunk = tl.program_id(0) // tiles // target_heads // target_batch
    heads = call.heads // target_heads
    i = start_m + tl.arange(0, block_m)
    j = start_n + tl.arange(0, block_n)

    total = tl.zeros([block_m, block_n], tl.float32)
    for summand in tl.range(chunk * share, tl.minimum(chunk * share + share, call.batch // target_batch * heads)):
        place = _place(call, sequence + summand // heads, head + summand % heads)
        if _meets(call, place, start_m, start_n, block_m, block_n):
            total += _tile(call, place, start_m, start_n, grad, lse, delta, i, j, block_m, block_n, width, precision)

    rows = tl.cast(i, tl.int64)[:, None] * target.row
    columns = tl.cast(j, tl.int64)[None, :] * target.column
    data = target.data + tl.cast(chunk, tl.int64) * chunk_stride + tl.cast(sequence, tl.int64) * target.batch
    data += tl.cast(head, tl.int64) * target.head
    inside = (i[:, None] < call.queries) & (j[None, :] < call.keys)
    tl.store(data + rows + columns, total.to(target.data.dtype.element_ty), mask=inside)


@triton.jit
def diagonal_gradient_kernel(
    call, partials, lowest, bands, segments, share, grad, lse, delta,
    block: tl.constexpr, segment: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes partials[chunk, :, head, band · block : (band + 1) · block]: the sums along the diagonals of a band's tiles.

    With D the distance (lowest + band) · block, number c is that of distance D + c at 0 and of D + c - block at 1.
    """
    band = tl.program_id(0) % bands
    head = tl.program_id(0) // bands % call.heads
    chunk = tl.program_id(0) // bands // call.heads
    nearest = (band + lowest) * block
    i = tl.arange(0, block)
    total = tl.zeros([block, block], tl.float32)
    for summand in range(chunk * share, tl.minimum(chunk * share + share, call.batch * segments)):
        place = _place(call, summand // segments, head)
        begin, end = _band_range(call, place, nearest, block)
        begin = tl.maximum(begin, summand % segments * segment)
        end = tl.minimum(end, summand % segments * segment + segment)
        apart = nearest + place.keys - place.queries
        for start in tl.range(begin, end, block):
            j = start + apart + i
            j = tl.where(j < 0, place.keys, j)  # as good as past the end
            total += _loose_tile(call, place, start, j, grad, lse, delta, block, width, precision)

    # row a one place to the left for each row above it, as on a ring: then a column holds two diagonals
    column = i[None, :]
    ring = tl.gather(total, (i[:, None] + column) & (block - 1), 1)
    ahead = i[:, None] + column < block
    target = partials + (tl.cast(chunk, tl.int64) * 2 * call.heads + head) * bands * block + band * block + i
    tl.store(target, tl.sum(tl.where(ahead, ring, 0.0), 0))
    tl.store(target + tl.cast(call.heads, tl.int64) * bands * block, tl.sum(tl.where(ahead, 0.0, ring), 0))


@triton.jit
def diagonal_sum_kernel(partials, gradient, chunks, heads, bands, lowest, queries, keys, block: tl.constexpr):
    """Adds the partial sums of one band's distances, half of which come from the next band."""
    band = tl.program_id(0) % bands
    head = tl.program_id(0) // bands
    i = tl.arange(0, block)
    total = tl.zeros([block], tl.float32)
    for chunk in range(0, chunks):
        own = partials + (tl.cast(chunk, tl.int64) * 2 * heads + head) * bands * block + band * block + i
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
def _meets(call, place, start_m, start_n, block_m: tl.constexpr, block_n: tl.constexpr):
    """Whether any of these queries may see any of these keys; at least where they may."""
    meets = True
    if call.starts_q is not None or call.extents is not None or call.structured:
        begin, end = _real_keys(call, place)
        nearest = start_n - (start_m + place.keys - place.queries + block_m - 1)
        meets = _distances_meet(call, nearest, nearest + block_m + block_n - 2)
        meets = meets & (start_m < place.queries) & (start_n < end) & (start_n + block_n > begin)
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
def _tile(
    call, place, start_m, start_n, grad, lse, delta, i, j,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """dS of queries i and the keys from start_n on."""
    key_data = sequence_data(call.key, place.sequence, place.head // call.group, place.first_key)
    value_data = sequence_data(call.value, place.sequence, place.head // call.group, place.first_key)
    key = load_rows(
        key_data, call.key.token, call.key.column, start_n, place.keys, block_n, width, call.head_width, True
    )
    value = load_rows(
        value_data, call.value.token, call.value.column, start_n, place.keys, block_n, width, call.head_width, True
    )
    return _score_gradient(call, place, key, value, start_m, j, grad, lse, delta, block_m, width, precision)


@triton.jit
def _loose_tile(
    call, place, start, j, grad, lse, delta, block: tl.constexpr, width: tl.constexpr, precision: tl.constexpr
):
    """dS of the queries from `start` on and keys j."""
    key = _load_tokens(call.key, place, j, width, call.group, call.head_width)
    value = _load_tokens(call.value, place, j, width, call.group, call.head_width)
    return _score_gradient(call, place, key, value, start, j, grad, lse, delta, block, width, precision)


@triton.jit
def _load_tokens(view, place, j, width: tl.constexpr, group, head_width: tl.constexpr):
    """(j, width) keys or values; zeros past K and where there is no such key."""
    columns = tl.arange(0, width)[None, :]
    data = sequence_data(view, place.sequence, place.head // group, place.first_key)
    mask = (j < place.keys)[:, None]
    if head_width < width:
        mask = mask & (columns < head_width)
    return tl.load(data + tl.cast(j, tl.int64)[:, None] * view.token + columns * view.column, mask=mask, other=0.0)


@triton.jit
def _score_gradient(
    call, place, key, value, start, j, grad, lse, delta,
    block: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """dS of the queries from `start` on and keys j, float32; zero where the mask forbids."""
    i = start + tl.arange(0, block)
    query_data = sequence_data(call.query, place.sequence, place.head, place.first_query)
    grad_data = sequence_data(grad, place.sequence, place.head, place.first_query)
    query = load_rows(
        query_data, call.query.token, call.query.column, start, place.queries, block, width, call.head_width, True
    )
    slope = load_rows(grad_data, grad.token, grad.column, start, place.queries, block, width, call.head_width, True)
    lse_data = sequence_data(lse, place.sequence, place.head, place.first_query)
    delta_data = sequence_data(delta, place.sequence, place.head, place.first_query)

    products = tl.dot(query, tl.trans(key), input_precision=precision)
    score, _ = scores(call, place, products, i, j, False)
    allowed = key_exists(call, place, j)[None, :]
    if call.structured:
        allowed = allowed & in_structure(call, place, i, j, False)
    shift = load_lse(call, lse_data, lse.token, i, place.queries)[:, None]
    probability = tl.where(allowed, weights(call, score, shift), 0.0)
    grad_probability = tl.dot(slope, tl.trans(value), input_precision=precision)
    if call.dropout is not None:
        keeps = kept(call, place, i, j, False)
        grad_probability = tl.where(keeps, grad_probability * call.dropout.factor, 0.0)
    return probability * (grad_probability - load_statistic(delta_data, delta.token, i, place.queries, 0.0)[:, None])
