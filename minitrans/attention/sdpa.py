"""Exact attention through torch's `scaled_dot_product_attention`, which picks the fastest of its fused kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minitrans.attention.mask import NO_MASK
from minitrans.attention.packed import by_sequence
from minitrans.attention.recording import being_traced
from minitrans.attention.rules import AttentionResult, AttentionRules


class SdpaAttention:
    """Masks and bias become one `attn_mask`; a packed batch runs its sequences, those of equal length in one call."""

    name = "sdpa"

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Not what stays inside torch's kernels."""
        if rules.softcap is not None:
            return "softcap"
        return "the logsumexp" if rules.need_logsumexp else None

    def remark(self, query: Tensor) -> str | None:
        """Nothing."""
        return None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """See `rules.Backend`."""
        if rules.mask is NO_MASK and rules.bias is None and rules.layout is None and query.shape[1] == key.shape[1]:
            output = scaled_dot_product_attention(query, key, value, dropout_p=rules.dropout_p, scale=rules.scale)
            return AttentionResult(output)
        return by_sequence(_rectangle, query, key, value, rules)


def _rectangle(query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
    """query (B, H, T, K), key and value (B, G, S, K) -> output (B, H, T, K)."""
    mask, scale = rules.mask, rules.scale_for(query)
    # torch's is_causal puts query i at position i instead of i + S - T, so it serves only where T == S, for good
    causal = rules.bias is None and mask.only_causal and not being_traced()
    if causal and query.shape[2] != key.shape[2]:  # a branch: to a compiler the comparison itself is no bool
        causal = False
    allowed = None if causal else mask.to_dense(query.shape[2], key.shape[2], query.device)
    empty: Tensor | None = None
    if allowed is not None:
        # what a fully masked row gives differs between torch's kernels: let it attend to everything, then zero it
        empty = ~allowed.any(dim=-1, keepdim=True)
        allowed = allowed | empty
    scores = allowed
    if rules.bias is not None:
        scores = rules.bias.to_dense(query, key, scale)
        if allowed is not None:
            scores = torch.where(allowed, scores, -torch.inf)
    options: dict[str, bool] = {}
    if query.shape[1] != key.shape[1]:
        if scores is None:
            options = {"enable_gqa": True}
        else:  # with a mask and enable_gqa, CUDA would leave its fused kernels
            group = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=scores, dropout_p=rules.dropout_p, is_causal=causal, scale=scale, **options
    )
    return AttentionResult(output if empty is None else output.masked_fill(empty, 0.0))
