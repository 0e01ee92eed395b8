"""What the attention kernels share: where a program stands, which tiles it meets, and the scores of a tile.

Indices i (queries) and j (keys) are vectors, local to their sequence; a tile is (i, j), or where `by_key` (j, i). Scores times
`args.unit` have base 2: a folded call keeps the bare products and has scale and log2(e) in its unit.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl

from minitrans_kernels.attention.kernel_args import LOG2_E, TileCoords
from minitrans_kernels.dropout_kernel import keep


@triton.jit
def query_tile(args, block_m: tl.constexpr):
    """The tile of a program that owns `block_m` queries of one head; `start >= queries` where it has none."""
    sequence, head, start, first, count = _locate(
        args.starts_q, args.tokens_q, args.batch, args.queries, args.heads, block_m, args.causal
    )
    first_key, keys = _other(args.starts_k, sequence, args.batch, args.keys)
    return TileCoords(sequence, head, start, first, count, first_key, keys)


@triton.jit
def key_tile(args, block_n: tl.constexpr):
    """The tile of a program that owns `block_n` keys of the first head of a group; `start >= keys` where it has none."""
    sequence, head, start, first, count = _locate(
        args.starts_k, args.tokens_k, args.batch, args.keys, args.heads // args.group, block_n, False
    )
    first_query, queries = _other(args.starts_q, sequence, args.batch, args.queries)
    return TileCoords(sequence, head * args.group, start, first_query, queries, first, count)


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
def whole_sequence(args, sequence, head):
    """A sequence as one tile; number `batch` of a packed batch holds the tokens of no sequence."""
    first_query = 0
    first_key = 0
    queries = args.queries
    keys = args.keys
    if args.starts_q is not None:
        inside = sequence < args.batch
        first_query = tl.load(args.starts_q + sequence)
        first_key = tl.load(args.starts_k + sequence)
        queries = tl.load(args.starts_q + sequence + 1, mask=inside, other=args.tokens_q) - first_query
        keys = tl.load(args.starts_k + sequence + 1, mask=inside, other=args.tokens_k) - first_key
    return TileCoords(sequence, head, 0, first_query, queries, first_key, keys)


@triton.jit
def real_keys(args, tile):
    """(first, end) of the keys that are not padding."""
    begin = 0
    end = tile.keys
    if args.extents is not None:
        begin = tl.load(args.extents + tile.sequence * 3)
        end = tl.load(args.extents + tile.sequence * 3 + 1)
    return begin, end


@triton.jit
def key_range(args, tile, block_m: tl.constexpr, block_n: tl.constexpr):
    """Where the tiles of keys lie that these queries meet: (begin, first full, end of the full, end).

    Steps of `block_n` from begin. Tiles from "first full" to "end of the full" need no mask. Not where there is a `BlockIndex`.
    """
    first_row = tile.start + tile.keys - tile.queries  # in key positions
    last_row = first_row + tl.minimum(block_m, tile.queries - tile.start) - 1
    begin = 0
    end = tile.keys
    full_end = end
    if args.extents is not None:
        begin = tl.load(args.extents + tile.sequence * 3)
        end = tl.load(args.extents + tile.sequence * 3 + 1)
        # holes, or a first tile that begins before the first real key: no tile is full
        full_end = tl.where((begin % 16 == 0) & (tl.load(args.extents + tile.sequence * 3 + 2) == 0), end, 0)
    full_begin = begin // 16 * 16
    if args.causal:
        end = tl.minimum(end, last_row + 1)
        full_end = tl.minimum(full_end, first_row + 1)
    if args.right is not None:
        end = tl.minimum(end, last_row + args.right + 1)
        full_end = tl.minimum(full_end, first_row + args.right + 1)
    if args.left is not None:
        begin = tl.maximum(begin, first_row - args.left)
        full_begin = tl.maximum(full_begin, last_row - args.left)
    return _tiles(begin, full_begin, full_end, end, block_n)


@triton.jit
def query_range(args, tile, block_m: tl.constexpr, block_n: tl.constexpr):
    """Where the tiles of queries lie that meet these keys, as `key_range`; "full" leaves out only the call's structure."""
    shift = tile.keys - tile.queries
    first_key = tile.start - shift  # in query positions
    last_key = first_key + tl.minimum(block_n, tile.keys - tile.start) - 1
    begin = 0
    end = tile.queries
    if args.extents is not None:  # no query where there is no real key
        some = (tile.start < tl.load(args.extents + tile.sequence * 3 + 1)) & (
            tile.start + block_n > tl.load(args.extents + tile.sequence * 3)
        )
        end = tl.where(some, end, 0)
    full_begin = 0
    full_end = end
    if args.right is not None:
        begin = tl.maximum(begin, first_key - args.right)
        full_begin = tl.maximum(full_begin, last_key - args.right)
    if args.causal:
        begin = tl.maximum(begin, first_key)
        full_begin = tl.maximum(full_begin, last_key)
    if args.left is not None:
        end = tl.minimum(end, last_key + args.left + 1)
        full_end = tl.minimum(full_end, first_key + args.left + 1)
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
def indexed_tiles(index, tile, block: tl.constexpr):
    """(where the list of tiles that this one meets lies, how many are on it)."""
    row = tile.sequence.to(tl.int64) * index.batch + tile.head * index.head + tile.start // block
    return index.tiles + row * index.row, tl.load(index.counts + row)


@triton.jit
def sequence_data(tensor, sequence, head, first):
    """A pointer to the first token of a sequence in one head."""
    sequence = tl.cast(sequence, tl.int64)
    return tensor.data + (
        sequence * tensor.batch + tl.cast(head, tl.int64) * tensor.head + tl.cast(first, tl.int64) * tensor.row
    )


@triton.jit
def load_queries(
    args, tensor, tile, start, block: tl.constexpr, width: tl.constexpr, masked: tl.constexpr
):  # fmt: skip
    """(block, width) rows from query `start` on of a tensor like query; zeros past K and, where `masked`, the last query."""
    data = sequence_data(tensor, tile.sequence, tile.head, tile.first_query)
    return _load(data, tensor, start, tile.queries, block, width, args.head_width, masked)


@triton.jit
def load_keys(
    args, tensor, tile, start, block: tl.constexpr, width: tl.constexpr, masked: tl.constexpr
):  # fmt: skip
    """(block, width) rows from key `start` on of a tensor like key; zeros past K and, where `masked`, past the last key."""
    data = sequence_data(tensor, tile.sequence, tile.head // args.group, tile.first_key)
    return _load(data, tensor, start, tile.keys, block, width, args.head_width, masked)


@triton.jit
def _load(
    data, tensor, start, count, block: tl.constexpr, width: tl.constexpr, head_width: tl.constexpr, masked: tl.constexpr
):  # fmt: skip
    rows = tl.arange(0, block)[:, None]
    columns = tl.arange(0, width)[None, :]
    pointers = data + tl.cast(start, tl.int64) * tensor.row + (rows * tensor.row + columns * tensor.column)
    if masked and head_width < width:
        return tl.load(pointers, mask=(start + rows < count) & (columns < head_width), other=0.0)
    if masked:
        return tl.load(pointers, mask=start + rows < count, other=0.0)
    if head_width < width:
        return tl.load(pointers, mask=columns < head_width, other=0.0)
    return tl.load(pointers)


@triton.jit
def store_queries(args, tensor, tile, start, values, block: tl.constexpr, width: tl.constexpr):
    """Writes (block, width) rows from query `start` on of a tensor like query."""
    data = sequence_data(tensor, tile.sequence, tile.head, tile.first_query)
    _store(data, tensor, start, tile.queries, values, block, width, args.head_width)


@triton.jit
def store_keys(args, tensor, tile, start, values, block: tl.constexpr, width: tl.constexpr):
    """Writes (block, width) rows from key `start` on of a tensor like key."""
    data = sequence_data(tensor, tile.sequence, tile.head // args.group, tile.first_key)
    _store(data, tensor, start, tile.keys, values, block, width, args.head_width)


@triton.jit
def _store(
    data, tensor, start, count, values, block: tl.constexpr, width: tl.constexpr, head_width: tl.constexpr
):  # fmt: skip
    rows = tl.arange(0, block)[:, None]
    columns = tl.arange(0, width)[None, :]
    pointers = data + tl.cast(start, tl.int64) * tensor.row + (rows * tensor.row + columns * tensor.column)
    mask = start + rows < count
    if head_width < width:
        mask = mask & (columns < head_width)
    tl.store(pointers, values.to(data.dtype.element_ty), mask=mask)


@triton.jit
def load_statistic(tensor, tile, i, other):
    """One float a query: lse or delta of queries i; `other` past the last one."""
    data = sequence_data(tensor, tile.sequence, tile.head, tile.first_query)
    return tl.load(data + tl.cast(i, tl.int64) * tensor.row, mask=i < tile.queries, other=other)


@triton.jit
def store_statistic(tensor, tile, i, values):
    """Writes one float a query."""
    data = sequence_data(tensor, tile.sequence, tile.head, tile.first_query)
    tl.store(data + tl.cast(i, tl.int64) * tensor.row, values, mask=i < tile.queries)


@triton.jit
def load_lse(args, tensor, tile, i):
    """The lse of queries i as `weights` takes it; +inf for those that attend to nothing or are not there: exp(x - inf) is 0."""
    lse_i = load_statistic(tensor, tile, i, float("-inf"))
    if args.folded:
        lse_i *= LOG2_E
    return tl.where(lse_i == float("-inf"), float("inf"), lse_i)


@triton.jit
def weights(args, score, shift):
    """The exponential of scores minus `shift`, which is natural, or in units of log2(e) for a folded call.

    Folded is one operation; not folded, a score that equals the shift weighs 1 exactly, however large both are.
    """
    if args.folded:
        return tl.exp2(score * args.unit - shift)
    else:
        return tl.exp2((score - shift) * args.unit)


@triton.jit
def along_queries(vector, by_key: tl.constexpr):
    """One value a query, shaped to broadcast over a tile."""
    return vector[None, :] if by_key else vector[:, None]


@triton.jit
def along_keys(vector, by_key: tl.constexpr):
    """One value a key, shaped to broadcast over a tile."""
    return vector[:, None] if by_key else vector[None, :]


@triton.jit
def scores(args, tile, products, i, j, by_key: tl.constexpr):
    """(scores, tanh of the softcap) of query·key products; the second means something where there is a softcap."""
    squashed = products
    if args.softcap is not None:
        squashed = _tanh(products * args.inner)
        products = squashed * args.softcap
    elif not args.folded:
        products = products * args.scale
    i = along_queries(i, by_key)
    j = along_keys(j, by_key)
    if args.bias is not None or args.distance_bias is not None:
        inside = (i < tile.queries) & (j < tile.keys)
    if args.bias is not None:
        bias = args.bias.data + tl.cast(tile.sequence, tl.int64) * args.bias.batch
        bias += tl.cast(tile.head, tl.int64) * args.bias.head
        bias += tl.cast(i, tl.int64) * args.bias.row + tl.cast(j, tl.int64) * args.bias.column
        products += tl.load(bias, mask=inside, other=0.0).to(tl.float32)
    if args.distance_bias is not None:
        distance = j - i - (tile.keys - tile.queries)
        bias = args.distance_bias.data + tl.cast(tile.head, tl.int64) * args.distance_bias.head
        products += tl.load(bias + (distance + args.keys - 1) * args.distance_bias.row, mask=inside, other=0.0)
    return products, squashed


@triton.jit
def _tanh(x):
    """Accurate near 0 too, where 1 - 2 / (exp(2 x) + 1) cancels: there by its series, whose next term is 1e-8 of it."""
    square = x * x
    series = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    size = tl.abs(x)
    far = 1 - 2 / (tl.exp2(size * (2 * LOG2_E)) + 1)
    return tl.where(size < 0.25, series, tl.where(x < 0, -far, far))


@triton.jit
def key_exists(args, tile, j):
    """Whether key j is one of the sequence, and a real token; a vector."""
    exists = j < tile.keys
    if args.padding is not None:
        padding = sequence_data(args.padding, tile.sequence, 0, 0)
        exists = tl.load(padding + tl.cast(j, tl.int64) * args.padding.row, mask=exists, other=0) != 0
    return exists


@triton.jit
def in_structure(args, tile, i, j, by_key: tl.constexpr):
    """Whether causal, window, blocks and global tokens let query i see key j, a tile; only for a `structured` call."""
    shift = tile.keys - tile.queries
    if args.global_tokens is not None:
        tokens = sequence_data(args.global_tokens, tile.sequence, 0, tile.first_key)
        stride = args.global_tokens.row
        query_exists = (i + shift >= 0) & (i < tile.queries)
        query_is = tl.load(tokens + tl.cast(i + shift, tl.int64) * stride, mask=query_exists, other=0) != 0
        key_is = tl.load(tokens + tl.cast(j, tl.int64) * stride, mask=j < tile.keys, other=0) != 0
    i = along_queries(i, by_key)
    j = along_keys(j, by_key)
    allowed = i < tile.queries
    if args.left is not None:
        allowed = allowed & (j >= i + (shift - args.left))
    if args.right is not None:
        allowed = allowed & (j <= i + (shift + args.right))
    if args.blocks is not None:
        blocks = sequence_data(args.blocks, tile.sequence, tile.head, 0)
        blocks += (i // args.block_size) * args.blocks.row + (j // args.block_size) * args.blocks.column
        allowed = allowed & (tl.load(blocks, mask=(i < tile.queries) & (j < tile.keys), other=0) != 0)
    if args.global_tokens is not None:
        allowed = allowed | along_keys(key_is, by_key) | along_queries(query_is, by_key)
    if args.causal:
        allowed = allowed & (j <= i + shift)
    return allowed


@triton.jit
def kept(args, tile, i, j, by_key: tl.constexpr):
    """Whether dropout keeps the probability of (i, j), a tile; only for a call with dropout."""
    stream = tl.cast(tile.sequence, tl.int64) * args.heads + tile.head
    row = tl.load(args.dropout.row_keys + stream * args.queries + i, mask=i < tile.queries, other=0)
    column = tl.load(args.dropout.column_keys + stream * args.keys + j, mask=j < tile.keys, other=0)
    row = along_queries(row.to(tl.uint32, bitcast=True), by_key)
    return keep(row, along_keys(column.to(tl.uint32, bitcast=True), by_key), args.dropout.threshold)
