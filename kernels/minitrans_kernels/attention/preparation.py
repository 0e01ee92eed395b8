"""From a `Problem` to the `Call` that kernels take: strides, switches, and tables cheaper to hold than to find again."""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from minitrans_kernels.attention.call import Call, Dropout, Grid, View, Visits
from minitrans_kernels.attention.problem import Problem
from minitrans_kernels.dropout import threshold
from minitrans_kernels.dropout_kernel import column_keys, row_keys

_LOG2_E = math.log2(math.e)
_KEYS_BLOCK = 1024


def prepare(problem: Problem) -> Call:
    """What kernels need of a problem that has queries and keys."""
    bare = problem.softcap is None and problem.bias is None and problem.diagonals is None and problem.scale > 0
    bare = bare and problem.query.dtype != torch.float32  # whose products deserve the more exact exponent
    packed = problem.packed
    near = problem.left is not None or problem.right is not None or problem.blocks is not None
    cap = problem.softcap
    return Call(
        query=token_view(problem.query, packed),
        key=token_view(problem.key, packed),
        value=token_view(problem.value, packed),
        starts_q=problem.cu_seqlens_q,
        starts_k=problem.cu_seqlens_k,
        tokens_q=problem.query.shape[0] if packed else None,
        tokens_k=problem.key.shape[0] if packed else None,
        batch=problem.batch,
        heads=problem.heads,
        group=problem.heads // problem.key_heads,
        queries=problem.max_seqlen_q,
        keys=problem.max_seqlen_k,
        extents=None if problem.key_padding is None else _extents(problem.key_padding),
        padding=None if problem.key_padding is None else _flags(problem.key_padding),
        global_tokens=None if problem.global_tokens is None or not near else _flags(problem.global_tokens),
        blocks=None if problem.blocks is None else grid_view(problem.blocks[None]),
        block_size=tl.constexpr(problem.block_size),
        bias=None if problem.bias is None else grid_view(problem.bias),
        diagonals=None if problem.diagonals is None else _diagonals(problem.diagonals),
        structured=tl.constexpr(problem.causal or near),
        causal=tl.constexpr(problem.causal),
        left=problem.left,
        right=problem.right,
        scale=problem.scale,
        folded=tl.constexpr(bare),
        unit=problem.scale * _LOG2_E if bare else _LOG2_E,
        softcap=cap,
        inner=None if cap is None else problem.scale / cap,
        dropout=None if problem.dropout_seed is None else _dropout(problem, problem.dropout_seed),
        head_width=tl.constexpr(problem.width),
    )


def token_view(tensor: Tensor, packed: bool) -> View:
    """A (B, H, T, K) or packed (N, H, K) tensor."""
    if packed:
        token, head, column = tensor.stride()
        return View(tensor, 0, head, token, column)
    return View(tensor, *tensor.stride())


def statistic_view(tensor: Tensor, packed: bool) -> View:
    """A (B, H, T) or packed (N, H) tensor."""
    if packed:
        token, head = tensor.stride()
        return View(tensor, 0, head, token, 0)
    batch, head, token = tensor.stride()
    return View(tensor, batch, head, token, 0)


def grid_view(tensor: Tensor) -> Grid:
    """A size of 1 gets stride 0: it is broadcast."""
    batch, head, row, column = tensor.stride()
    return Grid(tensor, 0 if tensor.shape[0] == 1 else batch, 0 if tensor.shape[1] == 1 else head, row, column)


def width_of(problem: Problem) -> int:
    """Columns of a tile: the head width, or the next power of two."""
    return max(16, 1 << (problem.width - 1).bit_length())


def precision_of(problem: Problem) -> str:
    """How float32 is multiplied: as float32, unless PyTorch was told that less will do."""
    exact = problem.query.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return "ieee" if exact else "tf32"


def device_of(problem: Problem) -> AbstractContextManager[None]:
    """Makes the problem's device the current one, on which Triton launches."""
    return torch.cuda.device(problem.query.device) if problem.query.is_cuda else nullcontext()


def visits(problem: Problem, own: int, other: int, *, by_key: bool) -> Visits | None:
    """Which tiles meet, for a mask with holes (blocks, global tokens); None where `key_range` and `query_range` say it.

    Args:
        problem: the call.
        own: tokens of a tile of the side that programs own: queries, or where `by_key` keys.
        other: tokens of a tile of the side they visit.
        by_key: whether programs own keys.
    """
    near = problem.left is not None or problem.right is not None or problem.blocks is not None
    if not near or (problem.blocks is None and problem.global_tokens is None):
        return None
    block_m, block_n = (other, own) if by_key else (own, other)
    meet = _tiles_that_meet(problem, block_m, block_n)
    if by_key:
        meet = meet.transpose(-2, -1)
    meet = meet.contiguous()
    tiles = torch.argsort(meet.to(torch.uint8), dim=-1, descending=True, stable=True).to(torch.int32)
    counts = meet.sum(dim=-1, dtype=torch.int32)
    batch, head, _ = (0 if size == 1 else stride for size, stride in zip(counts.shape, counts.stride(), strict=True))
    return Visits(counts, tiles, batch, head, tiles.shape[-1])


def _tiles_that_meet(problem: Problem, block_m: int, block_n: int) -> Tensor:
    """(B|1, H|1, tiles of queries, tiles of keys) bool: whether any query of the one may see any key of the other.

    At least where it may: what is left out is only what no pair of them allows.
    """
    device = problem.query.device
    if problem.cu_seqlens_q is not None and problem.cu_seqlens_k is not None:
        queries, keys = (starts.diff()[:, None, None, None] for starts in (problem.cu_seqlens_q, problem.cu_seqlens_k))
    else:
        queries, keys = (
            torch.full((1, 1, 1, 1), length, device=device) for length in (problem.max_seqlen_q, problem.max_seqlen_k)
        )
    i = torch.arange(0, problem.max_seqlen_q, block_m, device=device)[:, None]  # the first of each tile
    j = torch.arange(0, problem.max_seqlen_k, block_n, device=device)[None, :]
    shift = keys - queries
    nearest, farthest = j - (i + block_m - 1) - shift, j + block_n - 1 - i - shift  # the range of key - query
    meet = torch.ones_like(nearest, dtype=torch.bool)
    if problem.left is not None:
        meet &= farthest >= -problem.left
    if problem.right is not None:
        meet &= nearest <= problem.right
    if problem.blocks is not None:
        size = problem.block_size
        pooled = _any_of(problem.blocks, 1, problem.max_seqlen_q, block_m, size)
        meet = meet & _any_of(pooled, 2, problem.max_seqlen_k, block_n, size)
    if problem.global_tokens is not None:
        tokens = _by_sequence(problem.global_tokens, problem)  # (B, S)
        before = torch.nn.functional.pad(tokens.cumsum(dim=1), (1, 0))  # global tokens before each position
        first = (i[:, 0] + shift[:, 0, 0]).clamp(0, problem.max_seqlen_k)  # (B|1, tiles)
        end = (i[:, 0] + block_m + shift[:, 0, 0]).clamp(0, problem.max_seqlen_k)
        first, end = (place.expand(len(tokens), -1) for place in (first, end))
        of_query = before.gather(1, end) > before.gather(1, first)
        of_key = _any_of(tokens, 1, problem.max_seqlen_k, block_n, 1)
        meet = meet | of_query[:, None, :, None] | of_key[:, None, None, :]
    if problem.causal:
        meet = meet & (nearest <= 0)
    if problem.key_padding is not None:
        meet = meet & _any_of(problem.key_padding, 1, problem.max_seqlen_k, block_n, 1)[:, None, None, :]
    return meet & (i < queries) & (j < keys)


def _any_of(flags: Tensor, dim: int, length: int, block: int, size: int) -> Tensor:
    """Flags of every `size` tokens along a dimension -> whether any of a tile of `block` tokens is set."""
    before = torch.nn.functional.pad(flags.cumsum(dim=dim).transpose(dim, -1), (1, 0))
    first = torch.arange(0, length, block, device=flags.device)
    end = (first + block - 1).clamp(max=length - 1) // size + 1
    return (before[..., end] > before[..., first // size]).transpose(dim, -1)


def _by_sequence(tokens: Tensor, problem: Problem) -> Tensor:
    """(B, S) flags, or packed (M) ones as (B, longest), false past the end of a sequence."""
    starts = problem.cu_seqlens_k
    if starts is None:
        return tokens
    places = starts[:-1, None] + torch.arange(problem.max_seqlen_k, device=tokens.device)
    return tokens[places.clamp(max=len(tokens) - 1)] & (places < starts[1:, None])


def _flags(flags: Tensor) -> View:
    if flags.dim() == 1:
        return View(flags, 0, 0, flags.stride(0), 0)
    return View(flags, flags.stride(0), 0, flags.stride(1), 0)


def _diagonals(diagonals: Tensor) -> View:
    return View(diagonals, 0, diagonals.stride(0), diagonals.stride(1), 0)


def _extents(padding: Tensor) -> Tensor:
    extents = torch.empty(padding.shape[0], 3, dtype=torch.int32, device=padding.device)
    extents_kernel[(padding.shape[0],)](
        _flags(padding), padding.shape[1], extents, block=_KEYS_BLOCK, enable_fp_fusion=True
    )
    return extents


def _dropout(problem: Problem, seed: Tensor) -> Dropout:
    streams = problem.batch * problem.heads
    lengths = (problem.max_seqlen_q, problem.max_seqlen_k)
    rows, columns = (torch.empty(streams, length, dtype=torch.int32, device=seed.device) for length in lengths)
    tiles = triton.cdiv(max(lengths), _KEYS_BLOCK)
    dropout_keys_kernel[(streams * tiles,)](
        seed, rows, columns, *lengths, tiles, block=_KEYS_BLOCK, enable_fp_fusion=True
    )
    return Dropout(rows, columns, threshold(problem.dropout_p), 1 / (1 - problem.dropout_p))


@triton.jit
def extents_kernel(padding, length, extents, block: tl.constexpr):
    """One row of `Call.extents`."""
    sequence = tl.program_id(0)
    data = padding.data + tl.cast(sequence, tl.int64) * padding.batch
    first = length
    end = 0
    count = 0
    for begin in range(0, length, block):
        j = begin + tl.arange(0, block)
        real = tl.load(data + tl.cast(j, tl.int64) * padding.token, mask=j < length, other=0) != 0
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
