"""What the attention kernels are given: `AttentionArgs` as named tuples of pointers, strides and switches.

`None` in them means that an option is not in use, and its code is then not compiled.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.attention.arguments import AttentionArgs
from minitrans_kernels.dropout import threshold
from minitrans_kernels.dropout_kernel import column_keys, row_keys

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
_KEYS_BLOCK = 1024


class StridedTensor(NamedTuple):
    """A tensor and its strides: tokens (B, H, T, K), one number a token (B, H, T), or pairs (B|1, H|1, T, S).

    A stride is 0 where there is no such dimension: `batch` where sequences lie end to end, `column` of one number a token.
    """

    data: Any
    batch: Any
    head: Any
    row: Any
    column: Any


class DropoutKeys(NamedTuple):
    """Keys (B, H, T) and (B, H, S) of `dropout_kernel`, contiguous; `threshold` is that of `dropout`."""

    row_keys: Any
    column_keys: Any
    threshold: Any
    factor: Any  # 1 / (1 - dropout_p)


class KernelArgs(NamedTuple):
    """`AttentionArgs` as kernels take them. T and S are `queries` and `keys`, the longest of a packed batch."""

    query: StridedTensor
    key: StridedTensor
    value: StridedTensor
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
    padding: Any  # StridedTensor (B, S) or None
    global_tokens: Any  # StridedTensor (B, S) or packed (M), or None
    blocks: Any  # StridedTensor or None
    block_size: Any  # constexpr
    bias: Any  # StridedTensor or None
    distance_bias: Any  # StridedTensor (H, T + S - 1) or None
    structured: Any  # constexpr: whether the mask depends on both query and key
    causal: Any  # constexpr
    left: Any  # or None
    right: Any  # or None
    scale: Any
    folded: Any  # constexpr: scores are bare products
    unit: Any
    softcap: Any  # or None
    inner: Any  # scale / softcap
    dropout: Any  # DropoutKeys or None
    head_width: Any  # constexpr K


class BlockIndex(NamedTuple):
    """Which tiles of the other side each tile meets, where a range cannot say it: `tiles` holds `counts` of them, in order."""

    counts: Any  # (B|1, H|1, own tiles) int32
    tiles: Any  # (B|1, H|1, own tiles, other tiles) int32
    batch: Any  # strides of tiles over its last size
    head: Any
    row: Any


class TileCoords(NamedTuple):
    """Where a program stands: its sequence, its head, and its tile's first token, counted within the sequence."""

    sequence: Any
    head: Any
    start: Any
    first_query: Any  # the sequence's first token; 0 where `StridedTensor.batch` leads there
    queries: Any  # T of this sequence
    first_key: Any
    keys: Any


def kernel_args(args: AttentionArgs) -> KernelArgs:
    """What kernels need of a call that has queries and keys."""
    packed, cap = args.packed, args.softcap
    folded = cap is None and args.bias is None and args.distance_bias is None and args.scale > 0
    folded = folded and args.query.dtype != torch.float32  # whose products deserve the more exact exponent
    near = args.left is not None or args.right is not None or args.blocks is not None
    return KernelArgs(
        query=strided(args.query, packed),
        key=strided(args.key, packed),
        value=strided(args.value, packed),
        starts_q=args.cu_seqlens_q,
        starts_k=args.cu_seqlens_k,
        tokens_q=args.query.shape[0] if packed else None,
        tokens_k=args.key.shape[0] if packed else None,
        batch=args.batch,
        heads=args.heads,
        group=args.heads // args.key_heads,
        queries=args.max_seqlen_q,
        keys=args.max_seqlen_k,
        extents=None if args.key_padding is None else _extents(args.key_padding),
        padding=None if args.key_padding is None else _flags(args.key_padding),
        global_tokens=None if args.global_tokens is None or not near else _flags(args.global_tokens),
        blocks=None if args.blocks is None else broadcast(args.blocks),
        block_size=tl.constexpr(args.block_size),
        bias=None if args.bias is None else broadcast(args.bias),
        distance_bias=None if args.distance_bias is None else _by_distance(args.distance_bias),
        structured=tl.constexpr(args.causal or near),
        causal=tl.constexpr(args.causal),
        left=args.left,
        right=args.right,
        scale=args.scale,
        folded=tl.constexpr(folded),
        unit=args.scale * LOG2_E.value if folded else LOG2_E.value,
        softcap=cap,
        inner=None if cap is None else args.scale / cap,
        dropout=None if args.dropout_seed is None else _dropout(args, args.dropout_seed),
        head_width=tl.constexpr(args.width),
    )


def strided(tensor: Tensor, packed: bool) -> StridedTensor:
    """A (B, H, T, K) or (B, H, T) tensor, or packed (N, H, K) or (N, H)."""
    if packed:
        row, head, *column = tensor.stride()
        batch = 0
    else:
        batch, head, row, *column = tensor.stride()
    return StridedTensor(tensor, batch, head, row, column[0] if column else 0)


def broadcast(tensor: Tensor) -> StridedTensor:
    """A (B|1, H|1, T, S) tensor: a size of 1 gets stride 0."""
    batch, head, row, column = tensor.stride()
    return StridedTensor(tensor, 0 if tensor.shape[0] == 1 else batch, 0 if tensor.shape[1] == 1 else head, row, column)


def _flags(flags: Tensor) -> StridedTensor:
    return StridedTensor(flags, 0 if flags.dim() == 1 else flags.stride(0), 0, flags.stride(-1), 0)


def _by_distance(bias: Tensor) -> StridedTensor:
    return StridedTensor(bias, 0, bias.stride(0), bias.stride(1), 0)


def _extents(padding: Tensor) -> Tensor:
    extents = torch.empty(padding.shape[0], 3, dtype=torch.int32, device=padding.device)
    extents_kernel[(padding.shape[0],)](
        _flags(padding), padding.shape[1], extents, block=_KEYS_BLOCK, enable_fp_fusion=True
    )
    return extents


def _dropout(args: AttentionArgs, seed: Tensor) -> DropoutKeys:
    streams = args.batch * args.heads
    lengths = (args.max_seqlen_q, args.max_seqlen_k)
    rows, columns = (torch.empty(streams, length, dtype=torch.int32, device=seed.device) for length in lengths)
    tiles = triton.cdiv(max(lengths), _KEYS_BLOCK)
    dropout_keys_kernel[(streams * tiles,)](
        seed, rows, columns, *lengths, tiles, block=_KEYS_BLOCK, enable_fp_fusion=True
    )
    return DropoutKeys(rows, columns, threshold(args.dropout_p), 1 / (1 - args.dropout_p))


@triton.jit
def extents_kernel(padding, length, extents, block: tl.constexpr):
    """One row of `KernelArgs.extents`."""
    sequence = tl.program_id(0)
    data = padding.data + tl.cast(sequence, tl.int64) * padding.batch
    first = length
    end = 0
    count = 0
    for begin in range(0, length, block):
        j = begin + tl.arange(0, block)
        real = tl.load(data + tl.cast(j, tl.int64) * padding.row, mask=j < length, other=0) != 0
        first = tl.minimum(first, tl.min(tl.where(real, j, length)))
        end = tl.maximum(end, tl.max(tl.where(real, j + 1, 0)))
        count += tl.sum(real.to(tl.int32))
    first = tl.minimum(first, end)
    tl.store(extents + sequence * 3, first)
    tl.store(extents + sequence * 3 + 1, end)
    tl.store(extents + sequence * 3 + 2, (count < end - first).to(tl.int32))


@triton.jit
def dropout_keys_kernel(seed, rows, columns, queries, keys, tiles, block: tl.constexpr):
    """The keys of `block` rows and columns of one stream."""
    seed = tl.load(seed)
    stream = tl.cast(tl.program_id(0) // tiles, tl.int64)
    index = tl.program_id(0) % tiles * block + tl.arange(0, block)
    row = row_keys(seed, stream, index).to(tl.int32, bitcast=True)
    column = column_keys(seed, stream, index).to(tl.int32, bitcast=True)
    tl.store(rows + stream * queries + index, row, mask=index < queries)
    tl.store(columns + stream * keys + index, column, mask=index < keys)
