"""What the attention kernels are given: a `Problem` as named tuples of pointers, strides and switches.

`None` in them means that an option is not in use, and its code is then not compiled.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class View(NamedTuple):
    """A tensor of tokens and its strides; `batch` is 0 where sequences lie end to end, `column` where there is no K."""

    data: Any
    batch: Any
    head: Any
    token: Any
    column: Any


class Grid(NamedTuple):
    """A (B|1, H|1, T, S) tensor, or one of its blocks, and its strides."""

    data: Any
    batch: Any
    head: Any
    row: Any
    column: Any


class Dropout(NamedTuple):
    """Keys (B, H, T) and (B, H, S) of `dropout_kernel`, contiguous; `threshold` is that of `dropout`."""

    row_keys: Any
    column_keys: Any
    threshold: Any
    factor: Any  # 1 / (1 - dropout_p)


class Call(NamedTuple):
    """A `Problem` as kernels take it. T and S are `queries` and `keys`, the longest of a packed batch."""

    query: View
    key: View
    value: View
    starts_q: Any  # cu_seqlens_q or None
    starts_k: Any
    tokens_q: Any  # N of a packed batch, else None
    tokens_k: Any
    batch: Any
    heads: Any
    group: Any  # H / G
    queries: Any
    keys: Any
    extents: Any  # (B, 3) int32: first real key, end of the last, whether others lie between; None without padding
    padding: Any  # View (B, S) or None
    global_tokens: Any  # View (B, S) or packed (M), or None
    blocks: Any  # Grid or None
    block_size: Any  # constexpr
    bias: Any  # Grid or None
    diagonals: Any  # View (H, T + S - 1) or None
    structured: Any  # constexpr: whether the mask depends on both query and key
    causal: Any  # constexpr
    left: Any  # or None
    right: Any  # or None
    scale: Any
    folded: Any  # constexpr: scores are bare products
    unit: Any
    softcap: Any  # or None
    inner: Any  # scale / softcap
    dropout: Any  # Dropout or None
    head_width: Any  # constexpr K


class Visits(NamedTuple):
    """Which tiles of the other side each tile sees, where a range cannot say it: `tiles` holds `counts` of them, in order."""

    counts: Any  # (B|1, H|1, own tiles) int32
    tiles: Any  # (B|1, H|1, own tiles, other tiles) int32
    batch: Any  # strides of tiles over its last size
    head: Any
    row: Any


class Place(NamedTuple):
    """Where a program stands: its sequence, its head, and its tile's first token, counted within the sequence."""

    sequence: Any
    head: Any
    start: Any
    first_query: Any  # the sequence's first token; 0 where `View.batch` leads there
    queries: Any  # T of this sequence
    first_key: Any
    keys: Any
