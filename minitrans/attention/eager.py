"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1, equation 1), as plainly as it can be written.

The oracle: every other implementation is compared with this one. Any floating dtype, any option, O(T·S) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout

from minitrans.attention.bias import AttentionBias
from minitrans.attention.contract import OPTIONS, AttentionResult
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.attention.packed import packed_bias


class EagerAttention:
    """softmax(scale · Q Kᵀ + bias) V, with masked pairs left out of the softmax."""

    name = "eager"
    supports = OPTIONS
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
        if layout is not None:  # one long sequence in which no token sees another sequence than its own
            query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))  # (1, H|G, N, K)

        group = query.shape[1] // key.shape[1]
        keys, values = (tensor.repeat_interleave(group, dim=1) for tensor in (key, value))  # (B, H, S, K)

        scores = query @ keys.transpose(-2, -1) * scale  # (B, H, T, S)
        if bias is not None:
            scores = scores + (
                bias.to_dense(query, key, scale) if layout is None else packed_bias(bias, query, key, scale, layout)
            )
        allowed = mask.to_dense(query.shape[2], key.shape[2], query.device, layout)
        weights, logsumexp = _softmax(scores, allowed)
        output = dropout(weights, dropout_p) @ values  # (B, H, T, K)

        if layout is not None:
            output, logsumexp = output[0].transpose(0, 1), logsumexp[0].transpose(0, 1)  # (N, H, K), (N, H)
        return AttentionResult(output, weights if need_weights else None, logsumexp)


def _softmax(scores: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Softmax over the allowed keys, and the logsumexp; a row with none gives zeros and -inf."""
    if allowed is None:
        return torch.softmax(scores, dim=-1), torch.logsumexp(scores, dim=-1)
    empty = ~allowed.any(dim=-1, keepdim=True)
    # an empty row is computed as if everything were allowed and then zeroed: -inf - -inf would be NaN, also backward
    scores = scores.masked_fill(~(allowed | empty), -torch.inf)
    weights = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)
    logsumexp = torch.logsumexp(scores, dim=-1).masked_fill(empty.squeeze(-1), -torch.inf)
    return weights, logsumexp
