"""What the attention kernels share: where a program stands in a `Call`, which tiles it meets, and the tile of its scores.

Indices i (queries) and j (keys) are vectors, local to their sequence; a tile is (i, j), or where `by_key` (j, i). Scores times
`call.unit` have base 2: a folded call keeps the bare products and has scale and log2(e) in its unit.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.call import Place
from minitrans_kernels.dropout_kernel import keep


@triton.jit
def query_place(call, block_m: tl.constexpr):
    """The place of a program that owns `block_m` queries of one head; `start >= queries` where it has none."""
    sequence, head, start, first, count = _locate(
        call.starts_q, call.tokens_q, call.batch, call.queries, call.heads, block_m, call.causal
    )
    first_key, keys = _other(call.starts_k, sequence, call.batch, call.keys)
    return Place(sequence, head, start, first, count, first_key, keys)


@triton.jit
def key_place(call, block_n: tl.constexpr):
    """The place of a program that owns `block_n` keys of one key/value head; `start >= keys` where it has none."""
    sequence, head, start, first, count = _locate(
        call.starts_k, call.tokens_k, call.batch, call.keys, call.heads // call.group, block_n, False
    )
    first_query, queries = _other(call.starts_q, sequence, call.batch, call.queries)
    return Place(sequence, head, start, first_query, queries, first, count)


@triton.jit
def _locate(starts, tokens, batch, length, heads, block: tl.constexpr, descending: tl.constexpr):
    """(sequence, head, first token of the tile, first token of the sequence, its tokens) of this program.

    In a packed batch sequence b owns the tiles from starts[b] // block + b on, at least as many as it can need. Tokens
    past the end of the last sequence form one of their own, number `batch`, that meets nothing.
    """
    program = tl.program_id(0)
    if starts is None:
        tiles = tl.cdiv(length, block)
        tile = program % tiles
        if descending:  # the rows with the most keys first, so that the last programs to start are short
            tile = tiles - 1 - tile
        return (program // tiles) // heads, (program // tiles) % heads, tile * block, 0, length
    else:
        tiles = tokens // block + batch + 1
        tile = program % tiles
        earlier = tl.zeros([], tl.int32)
        for begin in range(0, batch + 1, 512):
            candidate = begin + tl.arange(0, 512)
            first_tile = tl.load(starts + candidate, mask=candidate <= batch, other=0) // block + candidate
            earlier += tl.sum(((first_tile <= tile) & (candidate <= batch)).to(tl.int32))
        sequence = earlier - 1
        first = tl.load(starts + sequence)
        end = tl.load(starts + sequence + 1, mask=sequence < batch, other=tokens)
        return sequence, program // tiles, (tile - first // block - sequence) * block, first, end - first


@triton.jit
def _other(starts, sequence, batch, length):
    if starts is None:
        return 0, length
    else:
        first = tl.load(starts + sequence)
        return first, tl.load(starts + tl.minimum(sequence + 1, batch)) - first


@triton.jit
def key_range(call, place, block_m: tl.constexpr, block_n: tl.constexpr):
    """Where the tiles of keys lie that these queries meet: (begin, first full, end of the full, end).

    Steps of `block_n` from begin. Tiles from "first full" to "end of the full" need no mask. Not for a call with `Visits`.
    """
    first_row = place.start + place.keys - place.queries  # in key positions
    last_row = first_row + tl.minimum(block_m, place.queries - place.start) - 1
    begin = 0
    end = place.keys
    full_end = end
    if call.extents is not None:
        begin = tl.load(call.extents + place.sequence * 3)
        end = tl.load(call.extents + place.sequence * 3 + 1)
        # holes, or a first tile that begins before the first real key: no tile is full
        full_end = tl.where((begin % 16 == 0) & (tl.load(call.extents + place.sequence * 3 + 2) == 0), end, 0)
    full_begin = begin // 16 * 16
    if call.causal:
        end = tl.minimum(end, last_row + 1)
        full_end = tl.minimum(full_end, first_row + 1)
    if call.right is not None:
        end = tl.minimum(end, last_row + call.right + 1)
        full_end = tl.minimum(full_end, first_row + call.right + 1)
    if call.left is not None:
        begin = tl.maximum(begin, first_row - call.left)
        full_begin = tl.maximum(full_begin, last_row - call.left)
    return _tiles(begin, full_begin, full_end, end, block_n)


@triton.jit
def query_range(call, place, block_m: tl.constexpr, block_n: tl.constexpr):
    """Where the tiles of queries lie that meet these keys, as `key_range`; "full" leaves out only the call's structure."""
    shift = place.keys - place.queries
    first_key = place.start - shift  # in query positions
    last_key = first_key + tl.minimum(block_n, place.keys - place.start) - 1
    begin = 0
    end = place.queries
    if call.extents is not None:  # no query where there is no real key
        some = (place.start < tl.load(call.extents + place.sequence * 3 + 1)) & (
            place.start + block_n > tl.load(call.extents + place.sequence * 3)
        )
        end = tl.where(some, end, 0)
    full_begin = 0
    full_end = end
    if call.right is not None:
        begin = tl.maximum(begin, first_key - call.right)
        full_begin = tl.maximum(full_begin, last_key - call.right)
    if call.causal:
        begin = tl.maximum(begin, first_key)
        full_begin = tl.maximum(full_begin, last_key)
    if call.left is not None:
        end = tl.minimum(end, last_key + call.left + 1)
        full_end = tl.minimum(full_end, first_key + call.left + 1)
    return _tiles(begin, full_begin, full_end, end, block_m)


@triton.jit
def _tiles(begin, full_begin, full_end, end, block: tl.constexpr):
    """Begins at a multiple of 16, so that loads along the range are aligned, and rounds the full part to whole tiles."""
    begin = begin // 16 * 16
    end = tl.maximum(begin, end)
    first_full = begin + tl.cdiv(tl.minimum(tl.maximum(full_begin, begin), end) - begin, block) * block
    last_full = first_full + tl.maximum(tl.minimum(full_end, end) - first_full, 0) // block * block
    return begin, first_full, last_full, end


@triton.jit
def visit_range(visits, place, block: tl.constexpr):
    """(where this tile's list lies, how many tiles are on it)."""
    row = place.sequence.to(tl.int64) * visits.batch + place.head * visits.head + place.start // block
    return visits.tiles + row * visits.row, tl.load(visits.counts + row)


@triton.jit
def sequence_data(view, sequence, head, first):
    """A pointer to the first token of a sequence in one head."""
    sequence = tl.cast(sequence, tl.int64)
    return view.data + (
        sequence * view.batch + tl.cast(head, tl.int64) * view.head + tl.cast(first, tl.int64) * view.token
    )


@triton.jit
def load_rows(
    data,
    token,
    column,
    start,
    count,
    block: tl.constexpr,
    width: tl.constexpr,
    head_width: tl.constexpr,
    masked: tl.constexpr,
):
    """(block, width) tokens from `start` on; zeros past K and, where `masked`, from token `count` on."""
    rows = tl.arange(0, block)[:, None]
    columns = tl.arange(0, width)[None, :]
    pointers = data + tl.cast(start, tl.int64) * token + (rows * token + columns * column)
    if masked and head_width < width:
        return tl.load(pointers, mask=(start + rows < count) & (columns < head_width), other=0.0)
    if masked:
        return tl.load(pointers, mask=start + rows < count, other=0.0)
    if head_width < width:
        return tl.load(pointers, mask=columns < head_width, other=0.0)
    return tl.load(pointers)


@triton.jit
def store_rows(
    data, token, column, start, count, values, block: tl.constexpr, width: tl.constexpr, head_width: tl.constexpr
):
    """Writes (block, width) tokens from `start` on, up to token `count` and column K."""
    rows = tl.arange(0, block)[:, None]
    columns = tl.arange(0, width)[None, :]
    pointers = data + tl.cast(start, tl.int64) * token + (rows * token + columns * column)
    mask = start + rows < count
    if head_width < width:
        mask = mask & (columns < head_width)
    tl.store(pointers, values.to(data.dtype.element_ty), mask=mask)


@triton.jit
def load_statistic(data, token, rows, count, other):
    """One float a token: lse or delta of `rows`, `other` from row `count` on."""
    return tl.load(data + tl.cast(rows, tl.int64) * token, mask=rows < count, other=other)


@triton.jit
def load_lse(call, data, token, rows, count):
    """The lse of `rows` as `weights` takes it; +inf for rows that attend to nothing or are not there: exp(x - inf) is 0."""
    lse = load_statistic(data, token, rows, count, float("-inf"))
    if call.folded:
        lse *= 1.4426950408889634
    return tl.where(lse == float("-inf"), float("inf"), lse)


@triton.jit
def weights(call, score, shift):
    """The exponential of scores minus `shift`, which is natural, or in units of log2(e) for a folded call.

    Folded is one operation; not folded, a score that equals the shift weighs 1 exactly, however large both are.
    """
    if call.folded:
        return tl.exp2(score * call.unit - shift)
    else:
        return tl.exp2((score - shift) * call.unit)


@triton.jit
def along_queries(vector, by_key: tl.constexpr):
    """One value a query, shaped to broadcast over a tile."""
    return vector[None, :] if by_key else vector[:, None]


@triton.jit
def along_keys(vector, by_key: tl.constexpr):
    """One value a key, shaped to broadcast over a tile."""
    return vector[:, None] if by_key else vector[None, :]


@triton.jit
def scores(call, place, products, i, j, by_key: tl.constexpr):
    """(scores, tanh of the softcap) of query·key products; the second means something where there is a softcap."""
    squashed = products
    if call.softcap is not None:
        squashed = _tanh(products * call.inner)
        products = squashed * call.softcap
    elif not call.folded:
        products = products * call.scale
    i = along_queries(i, by_key)
    j = along_keys(j, by_key)
    if call.bias is not None or call.diagonals is not None:
        inside = (i < place.queries) & (j < place.keys)
    if call.bias is not None:
        bias = call.bias.data + tl.cast(place.sequence, tl.int64) * call.bias.batch
        bias += tl.cast(place.head, tl.int64) * call.bias.head
        bias += tl.cast(i, tl.int64) * call.bias.row + tl.cast(j, tl.int64) * call.bias.column
        products += tl.load(bias, mask=inside, other=0.0).to(tl.float32)
    if call.diagonals is not None:
        distance = j - i - (place.keys - place.queries)
        diagonal = call.diagonals.data + tl.cast(place.head, tl.int64) * call.diagonals.head
        products += tl.load(diagonal + (distance + call.keys - 1) * call.diagonals.token, mask=inside, other=0.0)
    return products, squashed


@triton.jit
def _tanh(x):
    """Accurate near 0 too, where 1 - 2 / (exp(2 x) + 1) cancels: there by its series, whose next term is 1e-8 of it."""
    square = x * x
    series = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    size = tl.abs(x)
    far = 1 - 2 / (tl.exp2(size * 2.8853900817779268) + 1)
    return tl.where(size < 0.25, series, tl.where(x < 0, -far, far))


@triton.jit
def key_exists(call, place, j):
    """Whether key j is one of the sequence, and a real token; a vector."""
    exists = j < place.keys
    if call.padding is not None:
        padding = sequence_data(call.padding, place.sequence, 0, 0)
        exists = tl.load(padding + tl.cast(j, tl.int64) * call.padding.token, mask=exists, other=0) != 0
    return exists


@triton.jit
def in_structure(call, place, i, j, by_key: tl.constexpr):
    """Whether causal, window, blocks and global tokens let query i see key j, a tile; only for a `structured` call."""
    shift = place.keys - place.queries
    if call.global_tokens is not None:
        tokens = sequence_data(call.global_tokens, place.sequence, 0, place.first_key)
        stride = call.global_tokens.token
        query_exists = (i + shift >= 0) & (i < place.queries)
        query_is = tl.load(tokens + tl.cast(i + shift, tl.int64) * stride, mask=query_exists, other=0) != 0
        key_is = tl.load(tokens + tl.cast(j, tl.int64) * stride, mask=j < place.keys, other=0) != 0
    i = along_queries(i, by_key)
    j = along_keys(j, by_key)
    allowed = i < place.queries
    if call.left is not None:
        allowed = allowed & (j >= i + (shift - call.left))
    if call.right is not None:
        allowed = allowed & (j <= i + (shift + call.right))
    if call.blocks is not None:
        blocks = call.blocks.data + tl.cast(place.head, tl.int64) * call.blocks.head
        blocks += (i // call.block_size) * call.blocks.row + (j // call.block_size) * call.blocks.column
        allowed = allowed & (tl.load(blocks, mask=(i < place.queries) & (j < place.keys), other=0) != 0)
    if call.global_tokens is not None:
        allowed = allowed | along_keys(key_is, by_key) | along_queries(query_is, by_key)
    if call.causal:
        allowed = allowed & (j <= i + shift)
    return allowed


@triton.jit
def kept(call, place, i, j, by_key: tl.constexpr):
    """Whether dropout keeps the probability of (i, j), a tile; only for a call with dropout."""
    stream = tl.cast(place.sequence, tl.int64) * call.heads + place.head
    row = tl.load(call.dropout.row_keys + stream * call.queries + i, mask=i < place.queries, other=0)
    column = tl.load(call.dropout.column_keys + stream * call.keys + j, mask=j < place.keys, other=0)
    row = along_queries(row.to(tl.uint32, bitcast=True), by_key)
    return keep(row, along_keys(column.to(tl.uint32, bitcast=True), by_key), call.dropout.threshold)
