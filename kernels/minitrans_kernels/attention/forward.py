"""Attention forward: one program owns a block of queries of one head and sweeps the keys (FlashAttention-2, Dao 2023)."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.tiles import (
    in_structure,
    kept,
    key_exists,
    key_range,
    load_rows,
    query_place,
    scores,
    sequence_data,
    store_rows,
    visit_range,
    weights,
)


@triton.jit
def forward_kernel(
    call, out, lse, visits, block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr
):
    """Writes `block_m` rows of out (a View like query) and of lse (a View without columns)."""
    place = query_place(call, block_m)
    if place.start >= place.queries:
        return
    query = sequence_data(call.query, place.sequence, place.head, place.first_query)
    query = load_rows(
        query, call.query.token, call.query.column, place.start, place.queries, block_m, width, call.head_width, True
    )
    largest = tl.full([block_m], float("-inf"), tl.float32)
    total = tl.zeros([block_m], tl.float32)
    sums = tl.zeros([block_m, width], tl.float32)
    if visits is not None:
        tiles, count = visit_range(visits, place, block_m)
        sums, total, largest = _sweep(
            call, place, query, tiles, 0, count, sums, total, largest, block_m, block_n, width, precision, True
        )
    else:
        begin, full_begin, full_end, end = key_range(call, place, block_m, block_n)
        if call.left is not None:
            sums, total, largest = _sweep(
                call, place, query, None, begin, full_begin, sums, total, largest,
                block_m, block_n, width, precision, True,
            )  # fmt: skip
        sums, total, largest = _sweep(
            call, place, query, None, full_begin, full_end, sums, total, largest,
            block_m, block_n, width, precision, False,
        )  # fmt: skip
        sums, total, largest = _sweep(
            call, place, query, None, full_end, end, sums, total, largest, block_m, block_n, width, precision, True
        )

    rows = place.start + tl.arange(0, block_m)
    target = sequence_data(lse, place.sequence, place.head, place.first_query) + tl.cast(rows, tl.int64) * lse.token
    total = tl.where(total == 0, 1.0, total)  # nothing allowed: sums are 0 and largest is -inf
    logarithm = tl.log2(total) * 0.6931471805599453
    if call.folded:
        logarithm += largest * (call.unit * 0.6931471805599453)
    else:
        logarithm += largest
    tl.store(target, logarithm, mask=rows < place.queries)
    factor = 1 / total
    if call.dropout is not None:
        factor *= call.dropout.factor
    target = sequence_data(out, place.sequence, place.head, place.first_query)
    store_rows(
        target, out.token, out.column, place.start, place.queries, sums * factor[:, None],
        block_m, width, call.head_width,
    )  # fmt: skip


@triton.jit
def _sweep(
    call, place, query, tiles, begin, end, sums, total, largest,
    block_m: tl.constexpr, block_n: tl.constexpr, width: tl.constexpr, precision: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """Online softmax (Milakov & Gimelshein 2018) over keys begin .. end - 1, or over tiles begin .. end - 1 of a list."""
    i = place.start + tl.arange(0, block_m)
    head = place.head // call.group
    keys = sequence_data(call.key, place.sequence, head, place.first_key)
    values = sequence_data(call.value, place.sequence, head, place.first_key)
    step: tl.constexpr = block_n if tiles is None else 1
    # a loop that is skipped must not meet products of the one before in flight: ptxas would serialize them all
    if begin < end:
        for at in tl.range(begin, end, step):
            start = at
            if tiles is not None:
                start = tl.load(tiles + at) * block_n
            j = start + tl.arange(0, block_n)
            key = load_rows(
                keys, call.key.token, call.key.column, start, place.keys, block_n, width, call.head_width, masked
            )
            products = tl.dot(query, tl.trans(key), input_precision=precision)
            score, _ = scores(call, place, products, i, j, False)
            if masked:
                allowed = key_exists(call, place, j)[None, :]
                if call.structured:
                    allowed = allowed & in_structure(call, place, i, j, False)
                score = tl.where(allowed, score, float("-inf"))
            highest = tl.maximum(largest, tl.max(score, 1))
            if masked or not call.folded:  # a row may have seen nothing but -inf, and -inf - -inf is NaN
                finite = tl.where(highest == float("-inf"), 0.0, highest)
            else:
                finite = highest
            probabilities = weights(call, score, (finite * call.unit if call.folded else finite)[:, None])
            shrink = tl.exp2((largest - finite) * call.unit)
            total = total * shrink + tl.sum(probabilities, 1)
            if call.dropout is not None:
                probabilities = tl.where(kept(call, place, i, j, False), probabilities, 0.0)
            value = load_rows(
                values, call.value.token, call.value.column, start, place.keys, block_n, width, call.head_width, masked
            )
            sums = tl.dot(probabilities.to(value.dtype), value, sums * shrink[:, None], input_precision=precision)
            largest = highest
    return sums, total, largest
