"""Attention backward from the log-sum-exp (FlashAttention, Dao et al. 2022, section 3.1), split in two so that no sum is shared.

With P = exp(S - lse) and dP = dO Vᵀ: dS = P · (dP - delta), delta = rowsum(dO · O) - dlse. One kernel owns blocks of
queries and sums dQ = scale · dS K over the keys; another owns blocks of keys and sums dK = scale · dSᵀ Q and dV = Pᵀ dO
over the queries, of every head of its group. Each sum has one owner and one order: the same bits on every run.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.call import Place
from minitrans_kernels.attention.tiles import (
    in_structure,
    kept,
    key_exists,
    key_place,
    key_range,
    load_lse,
    load_rows,
    load_statistic,
    query_place,
    query_range,
    scores,
    sequence_data,
    store_rows,
    visit_range,
    weights,
)


@triton.jit
def delta_kernel(
    out, grad_out, grad_lse, delta, tokens, heads, block: tl.constexpr, width: tl.constexpr, head_width: tl.constexpr
):
    """Writes delta of `block` tokens of one head; sequences do not matter here, so a packed batch is one of N tokens."""
    tiles = tl.cdiv(tokens, block)
    sequence = tl.program_id(0) // tiles // heads
    head = tl.program_id(0) // tiles % heads
    start = tl.program_id(0) % tiles * block
    _delta(out, grad_out, grad_lse, delta, sequence, head, 0, start, tokens, block, width, head_width)


@triton.jit
def _delta(
    out, grad_out, grad_lse, delta, sequence, head, first, start, count,
    block: tl.constexpr, width: tl.constexpr, head_width: tl.constexpr,
):  # fmt: skip
    """(grad of out, delta) of `block` rows, of which delta is also written."""
    data = sequence_data(out, sequence, head, first)
    result = load_rows(data, out.token, out.column, start, count, block, width, head_width, True)
    data = sequence_data(grad_out, sequence, head, first)
    grad = load_rows(data, grad_out.token, grad_out.column, start, count, block, width, head_width, True)
    sums = tl.sum(result.to(tl.float32) * grad.to(tl.float32), 1)
    rows = start + tl.arange(0, block)
    if grad_lse is not None:
        data = sequence_data(grad_lse, sequence, head, first)
        sums -= load_statistic(data, grad_lse.token, rows, count, 0.0)
    data = sequence_data(delta, sequence, head, first)
    tl.store(data + tl.cast(rows, tl.int64) * delta.token, sums, mask=rows < count)
    return grad, sums


@triton.jit
def grad_query_kernel(
    call, out, lse, grad_out, grad_lse, delta, grad_query, visits,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes `block_m` rows of delta and of grad_query."""
    place = query_place(call, block_m)
    if place.start >= place.queries:
        return
    grad, delta_rows = _delta(
        out, grad_out, grad_lse, delta, place.sequence, place.head, place.first_query, place.start, place.queries,
        block_m, width, call.head_width,
    )  # fmt: skip
    i = place.start + tl.arange(0, block_m)
    lse_rows = load_lse(
        call, sequence_data(lse, place.sequence, place.head, place.first_query), lse.token, i, place.queries
    )
    query = sequence_data(call.query, place.sequence, place.head, place.first_query)
    query = load_rows(
        query, call.query.token, call.query.column, place.start, place.queries, block_m, width, call.head_width, True
    )
    sums = tl.zeros([block_m, width], tl.float32)
    if visits is not None:
        tiles, count = visit_range(visits, place, block_m)
        sums = _sweep_keys(
            call, place, query, grad, lse_rows, delta_rows, tiles, 0, count, sums,
            block_m, block_n, width, precision, True,
        )  # fmt: skip
    else:
        begin, full_begin, full_end, end = key_range(call, place, block_m, block_n)
        if call.left is not None:
            sums = _sweep_keys(
                call, place, query, grad, lse_rows, delta_rows, None, begin, full_begin, sums,
                block_m, block_n, width, precision, True,
            )  # fmt: skip
        sums = _sweep_keys(
            call, place, query, grad, lse_rows, delta_rows, None, full_begin, full_end, sums,
            block_m, block_n, width, precision, False,
        )  # fmt: skip
        sums = _sweep_keys(
            call, place, query, grad, lse_rows, delta_rows, None, full_end, end, sums,
            block_m, block_n, width, precision, True,
        )  # fmt: skip
    data = sequence_data(grad_query, place.sequence, place.head, place.first_query)
    store_rows(
        data, grad_query.token, grad_query.column, place.start, place.queries, sums * call.scale,
        block_m, width, call.head_width,
    )  # fmt: skip


@triton.jit
def _sweep_keys(
    call, place, query, grad, lse, delta, tiles, begin, end, sums,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """Adds dS K over keys begin .. end - 1, or over tiles begin .. end - 1 of a list."""
    i = place.start + tl.arange(0, block_m)
    head = place.head // call.group
    keys = sequence_data(call.key, place.sequence, head, place.first_key)
    values = sequence_data(call.value, place.sequence, head, place.first_key)
    step: tl.constexpr = block_n if tiles is None else 1
    # a loop that is skipped must not meet products of the one before in flight: ptxas would serialize them all
    first: tl.constexpr = not masked and call.left is None
    if first or begin < end:
        for at in tl.range(begin, end, step):
            start = at
            if tiles is not None:
                start = tl.load(tiles + at) * block_n
            j = start + tl.arange(0, block_n)
            key = load_rows(
                keys, call.key.token, call.key.column, start, place.keys, block_n, width, call.head_width, masked
            )
            value = load_rows(
                values, call.value.token, call.value.column, start, place.keys, block_n, width, call.head_width, masked
            )
            products = tl.dot(query, tl.trans(key), input_precision=precision)
            score, squashed = scores(call, place, products, i, j, False)
            if masked:
                allowed = key_exists(call, place, j)[None, :]
                if call.structured:
                    allowed = allowed & in_structure(call, place, i, j, False)
                score = tl.where(allowed, score, float("-inf"))
            probabilities = weights(call, score, lse[:, None])
            grad_probabilities = tl.dot(grad, tl.trans(value), input_precision=precision)
            if call.dropout is not None:
                grad_probabilities = tl.where(
                    kept(call, place, i, j, False), grad_probabilities * call.dropout.factor, 0.0
                )
            grad_scores = probabilities * (grad_probabilities - delta[:, None])
            if call.softcap is not None:
                grad_scores *= 1 - squashed * squashed
            sums = tl.dot(grad_scores.to(key.dtype), key, sums, input_precision=precision)
    return sums


@triton.jit
def grad_key_value_kernel(
    call, lse, grad_out, delta, grad_key, grad_value, visits,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Writes `block_n` rows of grad_key and of grad_value."""
    place = key_place(call, block_n)
    if place.start >= place.keys:
        return
    key = sequence_data(call.key, place.sequence, place.head, place.first_key)
    key = load_rows(
        key, call.key.token, call.key.column, place.start, place.keys, block_n, width, call.head_width, True
    )
    value = sequence_data(call.value, place.sequence, place.head, place.first_key)
    value = load_rows(
        value, call.value.token, call.value.column, place.start, place.keys, block_n, width, call.head_width, True
    )
    of_key = tl.zeros([block_n, width], tl.float32)
    of_value = tl.zeros([block_n, width], tl.float32)
    exists = key_exists(call, place, place.start + tl.arange(0, block_n))[:, None]
    for member in range(0, call.group):
        head = place.head * call.group + member
        at = Place(place.sequence, head, place.start, place.first_query, place.queries, place.first_key, place.keys)
        if visits is not None:
            tiles, count = visit_range(visits, at, block_n)
            of_key, of_value = _sweep_queries(
                call, at, key, value, exists, lse, grad_out, delta, tiles, 0, count, of_key, of_value,
                block_m, block_n, width, precision, True, True,
            )  # fmt: skip
        else:
            begin, full_begin, full_end, end = query_range(call, at, block_m, block_n)
            if call.causal or call.right is not None:
                of_key, of_value = _sweep_queries(
                    call, at, key, value, exists, lse, grad_out, delta, None, begin, full_begin, of_key, of_value,
                    block_m, block_n, width, precision, True, True,
                )  # fmt: skip
            if call.left is None:
                of_key, of_value = _sweep_queries(
                    call, at, key, value, exists, lse, grad_out, delta, None, full_begin, end, of_key, of_value,
                    block_m, block_n, width, precision, True, False,
                )  # fmt: skip
            else:
                of_key, of_value = _sweep_queries(
                    call, at, key, value, exists, lse, grad_out, delta, None, full_begin, full_end, of_key, of_value,
                    block_m, block_n, width, precision, False, False,
                )  # fmt: skip
                of_key, of_value = _sweep_queries(
                    call, at, key, value, exists, lse, grad_out, delta, None, full_end, end, of_key, of_value,
                    block_m, block_n, width, precision, True, True,
                )  # fmt: skip

    # what a key past the end has summed means nothing; it has no part in any other's sum
    of_key = tl.where(exists, of_key * call.scale, 0.0)
    if call.dropout is not None:
        of_value *= call.dropout.factor
    of_value = tl.where(exists, of_value, 0.0)
    data = sequence_data(grad_key, place.sequence, place.head, place.first_key)
    store_rows(data, grad_key.token, grad_key.column, place.start, place.keys, of_key, block_n, width, call.head_width)
    data = sequence_data(grad_value, place.sequence, place.head, place.first_key)
    store_rows(
        data, grad_value.token, grad_value.column, place.start, place.keys, of_value, block_n, width, call.head_width
    )


@triton.jit
def _sweep_queries(
    call, place, key, value, exists, lse, grad_out, delta, tiles, begin, end, of_key, of_value,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr,
    partial: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """Adds dSᵀ Q and Pᵀ dO over queries begin .. end - 1, or over tiles begin .. end - 1 of a list.

    A tile may hold rows past the last where `partial`: they have lse +inf, so no mask but that of loads. `masked` is for
    the structure of the call.
    """
    j = place.start + tl.arange(0, block_n)
    queries = sequence_data(call.query, place.sequence, place.head, place.first_query)
    grads = sequence_data(grad_out, place.sequence, place.head, place.first_query)
    lses = sequence_data(lse, place.sequence, place.head, place.first_query)
    deltas = sequence_data(delta, place.sequence, place.head, place.first_query)
    step: tl.constexpr = block_m if tiles is None else 1
    # as in _sweep_keys: an unmasked loop follows that of the head before, or a masked one
    if masked or begin < end:
        for at in tl.range(begin, end, step):
            start = at
            if tiles is not None:
                start = tl.load(tiles + at) * block_m
            i = start + tl.arange(0, block_m)
            query = load_rows(
                queries, call.query.token, call.query.column, start, place.queries,
                block_m, width, call.head_width, partial,
            )  # fmt: skip
            grad = load_rows(
                grads, grad_out.token, grad_out.column, start, place.queries,
                block_m, width, call.head_width, partial,
            )  # fmt: skip
            products = tl.dot(key, tl.trans(query), input_precision=precision)
            score, squashed = scores(call, place, products, i, j, True)
            if call.extents is not None or call.starts_k is not None or not call.folded:
                # or it may weigh inf, which a plain product of zeros seldom does
                score = tl.where(exists, score, float("-inf"))
            if masked and call.structured:
                score = tl.where(in_structure(call, place, i, j, True), score, float("-inf"))
            probabilities = weights(call, score, load_lse(call, lses, lse.token, i, place.queries)[None, :])
            grad_probabilities = tl.dot(value, tl.trans(grad), input_precision=precision)
            kept_probabilities = probabilities
            if call.dropout is not None:
                keep = kept(call, place, i, j, True)
                kept_probabilities = tl.where(keep, probabilities, 0.0)
                grad_probabilities = tl.where(keep, grad_probabilities * call.dropout.factor, 0.0)
            of_value = tl.dot(kept_probabilities.to(grad.dtype), grad, of_value, input_precision=precision)
            delta_rows = load_statistic(deltas, delta.token, i, place.queries, 0.0)
            grad_scores = probabilities * (grad_probabilities - delta_rows[None, :])
            if call.softcap is not None:
                grad_scores *= 1 - squashed * squashed
            of_key = tl.dot(grad_scores.to(query.dtype), query, of_key, input_precision=precision)
    return of_key, of_value
