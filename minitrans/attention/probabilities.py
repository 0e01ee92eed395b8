"""The probabilities of softmax attention on request, for backends that never store them."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.packed import dense_bias
from minitrans.attention.rules import AttentionRules
from minitrans.attention.scores import dense_scores


def attention_probabilities(query: Tensor, key: Tensor, rules: AttentionRules, logsumexp: Tensor | None) -> Tensor:
    """exp(scores - logsumexp), recomputed from the inputs of an attention.

    Args:
        query: (B, H, T, K), or (N, H, K) with a layout.
        key: (B, G, S, K), or (N, G, K).
        rules: as the attention had them.
        logsumexp: (B, H, T) or (N, H), what the attention returned; None where it returned none: it is recomputed too.

    Returns:
        (B, H, T, S), or (1, H, N, N) for a packed batch; rows with nothing to attend to are zero.
    """
    layout, scale = rules.layout, rules.scale_for(query)
    if layout is not None:
        query, key = query.transpose(0, 1)[None], key.transpose(0, 1)[None]  # (1, H|G, N, K)
        logsumexp = None if logsumexp is None else logsumexp.transpose(0, 1)[None]  # (1, H, N)
    dtype = query.dtype
    if logsumexp is not None:  # low-precision inputs, float32 logsumexp: the scores it came from were float32 too
        query, key = query.to(logsumexp.dtype), key.to(logsumexp.dtype)
    scores = dense_scores(query, key, rules)  # (B, H, T, S)
    if rules.bias is not None:
        scores = scores + dense_bias(rules.bias, query, key, scale, layout)
    allowed = rules.mask.to_dense(query.shape[2], key.shape[2], query.device, layout)
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
