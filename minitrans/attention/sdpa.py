"""Exact attention through torch's `scaled_dot_product_attention`, which picks the fastest of its fused kernels."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from minitrans.attention.bias import AttentionBias
from minitrans.attention.contract import OPTIONS, AttentionResult
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.packed import run_sequences


class SdpaAttention:
    """Masks and bias become one `attn_mask`; a packed batch runs its sequences, those of equal length in one call."""

    name = "sdpa"
    supports = OPTIONS - {"weights", "logsumexp"}  # the probabilities never exist, the logsumexp stays inside
    exact = True

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        mask: AttentionMask,
        bias: AttentionBias | None,
        layout: PackedLayout | None,
        scale: float,
        dropout_p: float,
        need_weights: bool,
    ) -> AttentionResult:
        """See `contract.Attention`."""
        compute = partial(_sdpa, scale=scale, dropout_p=dropout_p)
        if layout is not None:
            output, _ = run_sequences(compute, query, key, value, mask=mask, bias=bias, layout=layout)
        else:
            output, _ = compute(query, key, value, mask, bias)
        return AttentionResult(output)


def _sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: AttentionMask,
    bias: AttentionBias | None,
    *,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, None]:
    """query (B, H, T, K), key and value (B, G, S, K) -> output (B, H, T, K); no logsumexp."""
    # torch's is_causal puts query i at position i instead of i + S - T, so it serves only where T == S
    causal = bias is None and query.shape[2] == key.shape[2] and mask.only_causal
    allowed = None if causal else mask.to_dense(query.shape[2], key.shape[2], query.device)
    empty: Tensor | None = None
    if allowed is not None:
        # what a fully masked row gives differs between torch's kernels: let it attend to everything, then zero it
        empty = ~allowed.any(dim=-1, keepdim=True)
        allowed = allowed | empty
    scores = allowed
    if bias is not None:
        scores = bias.to_dense(query, key, scale)
        if allowed is not None:
            scores = torch.where(allowed, scores, -torch.inf)
    grouped = query.shape[1] != key.shape[1]
    if grouped and scores is not None:  # with a mask and enable_gqa, CUDA would leave its fused kernels
        group = query.shape[1] // key.shape[1]
        key, value, grouped = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1), False
    output = scaled_dot_product_attention(
        query, key, value, attn_mask=scores, dropout_p=dropout_p, is_causal=causal, scale=scale, enable_gqa=grouped
    )
    return (output if empty is None else output.masked_fill(empty, 0.0)), None
