"""The kernel of `short_backward`."""
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
    store_rows,
    weights,
)


@triton.jit
def short_backward_kernel(
    call, out, lse, grad, grad_lse, delta, grad_query, grad_key, grad_value, scratch,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes delta and the gradients of one sequence in one head; `scratch` is None where the keys are a single tile.

    Tiles of keys one after the other, and for each the range of queries that may see it. Neither end of that range falls
    from one tile to the next, so a query tile before `touched` has been met or never will be, and one before the begin
    of the next range is complete.
    """
    place = _place(call)
    begin, end = _visible_keys(call, place)
    partial = None
    if scratch is not None:
        tiles = tl.cdiv(call.queries, block_m)
        partial = scratch + tl.cast(tl.program_id(0), tl.int64) * tiles * (block_m * width)
    for row in range(0, place.queries, block_m):
        _fill_delta(call, place, out, grad, grad_lse, delta, row, block_m, width)
    # what one thread of this program wrote, to delta here and to `partial` below, others read
    tl.debug_barrier()
    touched = 0
    for start in range(0, place.keys, block_n):
        first, stop = _visible_queries(call, place, start, begin, end, touched, block_m, block_n)
        _clear(grad_query, place, touched, tl.minimum(first, place.queries), block_m, width, call.head_width)
        complete, _ = _visible_queries(call, place, start + block_n, begin, end, place.queries, block_m, block_n)
        _key_tile(
            call, place, grad_query, grad_key, grad_value, partial, grad, lse, delta,
            start, first, stop, touched, complete, block_m, block_n, width, precision,
        )  # fmt: skip
        touched = tl.maximum(touched, tl.maximum(first, tl.cdiv(stop, block_m) * block_m))
        tl.debug_barrier()
    _clear(grad_query, place, touched, place.queries, block_m, width, call.head_width)


@triton.jit
def _place(call):
    """The whole of this program's sequence; number `batch` of a packed batch holds the tokens of no sequence."""
    sequence = tl.program_id(0) // call.heads
    head = tl.program_id(0) % call.heads
    first_query = 0
    first_key = 0
    queries = call.queries
    keys = call.keys
    if call.starts_q is not None:
        inside = sequence < call.batch
        first_query = tl.load(call.starts_q + sequence)
        first_key = tl.load(call.starts_k + sequence)
        queries = tl.load(call.starts_q + sequence + 1, mask=inside, other=call.tokens_q) - first_query
        keys = tl.load(call.starts_k + sequence + 1, mask=inside, other=call.tokens_k) - first_key
    return Place(sequence, head, 0, first_query, queries, first_key, keys)


@triton.jit
def _visible_keys(call, place):
    """(first, end) of the keys that are not padding."""
    begin = 0
    end = place.keys
    if call.extents is not None:
        begin = tl.load(call.extents + place.sequence * 3)
        end = tl.load(call.extents + place.sequence * 3 + 1)
    if call.starts_q is not None:
        end = tl.where(place.sequence < call.batch, end, 0)
    return begin, end


@triton.jit
def _visible_queries(call, place, start, begin, end, otherwise, block_m: tl.constexpr, block_n: tl.constexpr):
    """(first, end) of the queries, from a multiple of `block_m` on, that may see the tile of keys; else `otherwise` twice."""
    first = 0
    stop = place.queries
    shift = place.keys - place.queries
    if call.causal:
        first = tl.maximum(first, start - shift)
    if call.global_tokens is None:
        if call.right is not None:
            first = tl.maximum(first, start - shift - call.right)
        if call.left is not None:
            stop = tl.minimum(stop, tl.minimum(start + block_n, place.keys) - shift + call.left)
    visible = (start < end) & (start + block_n > begin)
    return tl.where(visible, first // block_m * block_m, otherwise), tl.where(visible, stop, otherwise)


@triton.jit
def _fill_delta(call, place, out, grad, grad_lse, delta, row, block_m: tl.constexpr, width: tl.constexpr):
    """Writes delta of the queries from `row` on."""
    head_width: tl.constexpr = call.head_width
    out_data = sequence_data(out, place.sequence, place.head, place.first_query)
    grad_data = sequence_data(grad, place.sequence, place.head, place.first_query)
    result = load_rows(out_data, out.token, out.column, row, place.queries, block_m, width, head_width, True)
    slope = load_rows(grad_data, grad.token, grad.column, row, place.queries, block_m, width, head_width, True)
    i = row + tl.arange(0, block_m)
    total = tl.sum(result.to(tl.float32) * slope.to(tl.float32), 1)
    if grad_lse is not None:
        lse_data = sequence_data(grad_lse, place.sequence, place.head, place.first_query)
        total -= load_statistic(lse_data, grad_lse.token, i, place.queries, 0.0)
    target = sequence_data(delta, place.sequence, place.head, place.first_query) + tl.cast(i, tl.int64) * delta.token
    tl.store(target, total, mask=i < place.queries)


@triton.jit
def _clear(target, place, start, end, block_m: tl.constexpr, width: tl.constexpr, head_width: tl.constexpr):
    """Writes zeros to the rows start .. end - 1."""
    zeros = tl.zeros([block_m, width], tl.float32)
    data = sequence_data(target, place.sequence, place.head, place.first_query)
    for row in range(start, end, block_m):
        store_rows(data, target.token, target.column, row, place.queries, zeros, block_m, width, head_width)


@triton.jit
def _key_tile(
    call, place, grad_query, grad_key, grad_value, partial, grad, lse, delta,
    start, first, stop, touched, complete,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of the keys and values from `start` on, and adds to those of queries first .. stop - 1.

    Scores lie with a key to a row, so that no product of a product is transposed.
    """
    head_width: tl.constexpr = call.head_width
    j = start + tl.arange(0, block_n)
    exists = key_exists(call, place, j)[:, None]
    key = load_rows(
        sequence_data(call.key, place.sequence, place.head, place.first_key), call.key.token, call.key.column,
        start, place.keys, block_n, width, head_width, True,
    )  # fmt: skip
    value = load_rows(
        sequence_data(call.value, place.sequence, place.head, place.first_key), call.value.token, call.value.column,
        start, place.keys, block_n, width, head_width, True,
    )  # fmt: skip
    query_data = sequence_data(call.query, place.sequence, place.head, place.first_query)
    slope_data = sequence_data(grad, place.sequence, place.head, place.first_query)
    lse_data = sequence_data(lse, place.sequence, place.head, place.first_query)
    delta_data = sequence_data(delta, place.sequence, place.head, place.first_query)
    target = sequence_data(grad_query, place.sequence, place.head, place.first_query)
    of_key = tl.zeros([block_n, width], tl.float32)
    of_value = tl.zeros([block_n, width], tl.float32)
    for row in tl.range(first, stop, block_m):
        i = row + tl.arange(0, block_m)
        query = load_rows(
            query_data, call.query.token, call.query.column, row, place.queries, block_m, width, head_width, True
        )
        slope = load_rows(slope_data, grad.token, grad.column, row, place.queries, block_m, width, head_width, True)
        products = tl.dot(key, tl.trans(query), input_precision=precision)
        score, squashed = scores(call, place, products, i, j, True)
        allowed = exists
        if call.structured:
            allowed = allowed & in_structure(call, place, i, j, True)
        shift = load_lse(call, lse_data, lse.token, i, place.queries)[None, :]
        probability = tl.where(allowed, weights(call, score, shift), 0.0)
        of_probability = tl.dot(value, tl.trans(slope), input_precision=precision)
        weight = probability
        if call.dropout is not None:
            keeps = kept(call, place, i, j, True)
            weight = tl.where(keeps, probability, 0.0)
            of_probability = tl.where(keeps, of_probability * call.dropout.factor, 0.0)
        of_value = tl.dot(weight.to(slope.dtype), slope, of_value, input_precision=precision)
        below = load_statistic(delta_data, delta.token, i, place.queries, 0.0)[None, :]
        of_score = probability * (of_probability - below)
        if call.softcap is not None:
            of_score *= 1 - squashed * squashed
        of_product = of_score.to(query.dtype)
        of_key = tl.dot(of_product, query, of_key, input_precision=precision)
        of_query = tl.dot(tl.trans(key), of_product, input_precision=precision)  # (width, block_m)
        if partial is not None:
            pointers = partial + row * width + tl.arange(0, width)[:, None] * block_m + tl.arange(0, block_m)[None, :]
            of_query += tl.load(pointers, mask=row < touched, other=0.0)
            tl.store(pointers, of_query, mask=row >= complete)
        if row < complete:
            store_rows(
                target, grad_query.token, grad_query.column, row, place.queries,
                tl.trans(of_query) * call.scale, block_m, width, head_width,
            )  # fmt: skip
    if call.dropout is not None:
        of_value *= call.dropout.factor
    store_rows(
        sequence_data(grad_key, place.sequence, place.head, place.first_key), grad_key.token, grad_key.column,
        start, place.keys, of_key * call.scale, block_n, width, head_width,
    )  # fmt: skip
    store_rows(
        sequence_data(grad_value, place.sequence, place.head, place.first_key), grad_value.token, grad_value.column,
        start, place.keys, of_value, block_n, width, head_width,
    )  # fmt: skip
