"""Attention as its equation says it, (T, S) scores and all, in the dtype of its inputs: what the fast code is compared with."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, *, key_padding: Tensor | None = None, causal: bool = False,
    window: tuple[int | None, int | None] | None = None, global_tokens: Tensor | None = None,
    block_layout: tuple[Tensor, int] | None = None, bias: Tensor | None = None,
    relative_bias: tuple[Tensor, bool, int] | None = None, alibi_slopes: Tensor | None = None,
    scale: float | None = None, softcap: float | None = None, dropout_p: float = 0.0, kept: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The arguments of `attention`, and `kept` (B, H, T, S) of dropout -> output, logsumexp, probabilities before dropout."""
    key, value = (tensor.repeat_interleave(query.shape[1] // tensor.shape[1], dim=1) for tensor in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)  # (B, H, T, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    (queries, keys), device = scores.shape[2:], query.device
    i, j = torch.arange(queries, device=device)[:, None], torch.arange(keys, device=device)[None]
    position = i + keys - queries
    ahead = j - position  # (T, S)
    if bias is not None:
        scores = scores + bias
    if relative_bias is not None:
        table, bidirectional, max_distance = relative_bias
        scores = scores + table[_bucket(ahead, table.shape[0], bidirectional, max_distance)].permute(2, 0, 1)
    if alibi_slopes is not None:
        scores = scores - alibi_slopes[:, None, None] * ahead.abs()

    near = torch.ones_like(scores, dtype=torch.bool)
    if window is not None:
        left, right = (keys + queries if side is None else side for side in window)
        near = near & (ahead >= -left) & (ahead <= right)
    if block_layout is not None:
        near = near & block_layout[0][..., i // block_layout[1], j // block_layout[1]]
    if global_tokens is not None and keys:
        of_query = global_tokens[:, position.clamp(min=0)] & (position >= 0)  # (B, T, 1)
        near = near | global_tokens[:, None, None] | of_query[:, None]
    allowed = near & (ahead <= 0) if causal else near
    if key_padding is not None:
        allowed = allowed & key_padding[:, None, None]

    scores = scores.masked_fill(~allowed, -torch.inf)
    empty = (scores == -torch.inf).all(dim=-1, keepdim=True)
    scores = scores.masked_fill(empty, 0.0)
    probabilities = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)
    weights = probabilities if kept is None else probabilities * kept / (1 - dropout_p)
    return weights @ value, scores.logsumexp(-1).masked_fill(empty[..., 0], -torch.inf), probabilities


def _bucket(ahead: Tensor, count: int, bidirectional: bool, max_distance: int) -> Tensor:
    side = count // 2 if bidirectional else count
    gap, exact = ahead.abs() if bidirectional else (-ahead).clamp(min=0), side // 2
    far = torch.log(gap.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (side - exact)
    return torch.where(gap < exact, gap, (exact + far.long()).clamp(max=side - 1)) + (ahead > 0) * (count - side)
