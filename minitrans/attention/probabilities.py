"""The probabilities of softmax attention on request, for backends that never store them."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.bias import AttentionBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.packed import packed_bias


def attention_probabilities(
    query: Tensor,
    key: Tensor,
    *,
    mask: AttentionMask,
    bias: AttentionBias | None,
    layout: PackedLayout | None,
    scale: float,
    logsumexp: Tensor | None,
) -> Tensor:
    """exp(scores - logsumexp), recomputed from the inputs of an attention.

    Args:
        query: (B, H, T, K), or (N, H, K) with a layout.
        key: (B, G, S, K), or (N, G, K).
        mask: as the attention had it.
        bias: as the attention had it.
        layout: as the attention had it.
        scale: factor of the scores.
        logsumexp: (B, H, T) or (N, H), what the attention returned; None where it returned none: it is recomputed too.

    Returns:
        (B, H, T, S), or (1, H, N, N) for a packed batch; rows with nothing to attend to are zero.
    """
    if layout is not None:
        query, key = query.transpose(0, 1)[None], key.transpose(0, 1)[None]  # (1, H|G, N, K)
        logsumexp = None if logsumexp is None else logsumexp.transpose(0, 1)[None]  # (1, H, N)
    dtype = query.dtype
    if logsumexp is not None:  # low-precision inputs, float32 logsumexp: the scores it came from were float32 too
        query, key = query.to(logsumexp.dtype), key.to(logsumexp.dtype)
    batch, heads, length, width = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], length, width)  # (B, G, H / G, T, K)
    scores = torch.einsum("bgrtk,bgsk->bgrts", grouped, key).reshape(batch, heads, length, key.shape[2]) * scale
    if bias is not None:
        scores = scores + (
            bias.to_dense(query, key, scale) if layout is None else packed_bias(bias, query, key, scale, layout)
        )
    allowed = mask.to_dense(length, key.shape[2], query.device, layout)
    if allowed is not None:
        scores = torch.where(allowed, scores, -torch.inf)
    if logsumexp is None:
        logsumexp = _logsumexp(scores)
    # a row with nothing to attend to has logsumexp -inf; any finite number in its place gives exp(-inf) = 0
    finite = torch.where(logsumexp == -torch.inf, torch.zeros_like(logsumexp), logsumexp)
    return torch.exp(scores - finite[..., None]).to(dtype)


def _logsumexp(scores: Tensor) -> Tensor:
    """(..., S) -> (...): logsumexp whose gradient at an empty row is zero instead of NaN."""
    empty = (scores == -torch.inf).all(dim=-1)
    safe = torch.where(empty[..., None], torch.zeros_like(scores), scores)
    return safe.logsumexp(-1).masked_fill(empty, -torch.inf)
