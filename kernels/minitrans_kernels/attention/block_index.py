"""Which tiles meet under a mask with holes, so that the others are never visited (as FlexAttention's BlockMask)."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans_kernels.attention.arguments import AttentionArgs
from minitrans_kernels.attention.kernel_args import BlockIndex


def block_index(args: AttentionArgs, own: int, other: int, *, by_key: bool) -> BlockIndex | None:
    """For blocks and global tokens; None where `key_range` and `query_range` of tiles.py say it.

    Args:
        args: the call.
        own: tokens of a tile of the side that programs own: queries, or where `by_key` keys.
        other: tokens of a tile of the side they visit.
        by_key: whether programs own keys.
    """
    near = args.left is not None or args.right is not None or args.blocks is not None
    if not near or (args.blocks is None and args.global_tokens is None):
        return None
    block_m, block_n = (other, own) if by_key else (own, other)
    meet = tiles_that_meet(args, block_m, block_n)
    if by_key:
        meet = meet.transpose(-2, -1)
    meet = meet.contiguous()
    tiles = torch.argsort(meet.to(torch.uint8), dim=-1, descending=True, stable=True).to(torch.int32)
    counts = meet.sum(dim=-1, dtype=torch.int32)
    batch, head, _ = (0 if size == 1 else stride for size, stride in zip(counts.shape, counts.stride(), strict=True))
    return BlockIndex(counts, tiles, batch, head, tiles.shape[-1])


def tiles_that_meet(args: AttentionArgs, block_m: int, block_n: int) -> Tensor:
    """(B|1, H|1, tiles of queries, tiles of keys) bool: whether any query of the one may see any key of the other.

    At least where it may: what is left out is only what no pair of them allows.
    """
    device = args.query.device
    if args.cu_seqlens_q is not None and args.cu_seqlens_k is not None:
        queries, keys = (starts.diff()[:, None, None, None] for starts in (args.cu_seqlens_q, args.cu_seqlens_k))
    else:
        queries, keys = (
            torch.full((1, 1, 1, 1), length, device=device) for length in (args.max_seqlen_q, args.max_seqlen_k)
        )
    i = torch.arange(0, args.max_seqlen_q, block_m, device=device)[:, None]  # the first of each tile
    j = torch.arange(0, args.max_seqlen_k, block_n, device=device)[None, :]
    shift = keys - queries
    nearest, farthest = j - (i + block_m - 1) - shift, j + block_n - 1 - i - shift  # the range of key - query
    meet = torch.ones_like(nearest, dtype=torch.bool)
    if args.left is not None:
        meet &= farthest >= -args.left
    if args.right is not None:
        meet &= nearest <= args.right
    if args.blocks is not None:
        size = args.block_size
        pooled = _any_of(args.blocks, 2, args.max_seqlen_q, block_m, size)
        meet = meet & _any_of(pooled, 3, args.max_seqlen_k, block_n, size)
    if args.global_tokens is not None:
        tokens = _by_sequence(args.global_tokens, args)  # (B, S)
        before = torch.nn.functional.pad(tokens.cumsum(dim=1), (1, 0))  # global tokens before each position
        first = (i[:, 0] + shift[:, 0, 0]).clamp(0, args.max_seqlen_k)  # (B|1, tiles)
        end = (i[:, 0] + block_m + shift[:, 0, 0]).clamp(0, args.max_seqlen_k)
        first, end = (place.expand(len(tokens), -1) for place in (first, end))
        by_query = before.gather(1, end) > before.gather(1, first)
        by_key = _any_of(tokens, 1, args.max_seqlen_k, block_n, 1)
        meet = meet | by_query[:, None, :, None] | by_key[:, None, None, :]
    if args.causal:
        meet = meet & (nearest <= 0)
    if args.key_padding is not None:
        meet = meet & _any_of(args.key_padding, 1, args.max_seqlen_k, block_n, 1)[:, None, None, :]
    return meet & (i < queries) & (j < keys)


def _any_of(flags: Tensor, dim: int, length: int, block: int, size: int) -> Tensor:
    """Flags of every `size` tokens along a dimension -> whether any of a tile of `block` tokens is set."""
    before = torch.nn.functional.pad(flags.cumsum(dim=dim).transpose(dim, -1), (1, 0))
    first = torch.arange(0, length, block, device=flags.device)
    end = (first + block - 1).clamp(max=length - 1) // size + 1
    return (before[..., end] > before[..., first // size]).transpose(dim, -1)


def _by_sequence(tokens: Tensor, args: AttentionArgs) -> Tensor:
    """(B, S) flags, or packed (M) ones as (B, longest), false past the end of a sequence."""
    starts = args.cu_seqlens_k
    if starts is None:
        return tokens
    places = starts[:-1, None] + torch.arange(args.max_seqlen_k, device=tokens.device)
    return tokens[places.clamp(max=len(tokens) - 1)] & (places < starts[1:, None])
