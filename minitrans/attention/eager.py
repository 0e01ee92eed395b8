"""Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1, equation 1), as plainly as it can be written.

The oracle: every other implementation is compared with this one. Any floating dtype, any option, O(T·S) memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout

from minitrans.attention.mask import NO_MASK
from minitrans.attention.packed import dense_bias
from minitrans.attention.rules import AttentionResult, AttentionRules


class EagerAttention:
    """softmax(scale · Q Kᵀ + bias) V, with masked pairs left out of the softmax."""

    name = "eager"

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """Everything."""
        return None

    def remark(self, query: Tensor) -> str | None:
        """Nothing."""
        return None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """See `rules.Backend`."""
        layout, scale = rules.layout, query.shape[-1] ** -0.5 if rules.scale is None else rules.scale  # M6
        if layout is not None:  # one long sequence in which no token sees another sequence than its own
            query, key, value = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))  # (1, H|G, N, K)

        group = query.shape[1] // key.shape[1]
        keys, values = (tensor.repeat_interleave(group, dim=1) for tensor in (key, value))  # (B, H, S, K)

        # softmax(scale · Q Kᵀ + bias) V
        scores = query @ keys.transpose(-2, -1) * scale  # (B, H, T, S)
        if rules.softcap is not None:
            scores = rules.softcap * torch.tanh(scores / rules.softcap)
        if rules.bias is not None:
            scores = scores + dense_bias(rules.bias, query, key, scale, layout)
        allowed = None
        if rules.mask is not NO_MASK or layout is not None:
            allowed = rules.mask.to_dense(query.shape[2], key.shape[2], query.device, layout)
        weights, logsumexp = self.softmax(scores, allowed)
        output = dropout(weights, rules.dropout_p) @ values  # (B, H, T, K)

        if layout is not None:
            output, logsumexp = output[0].transpose(0, 1), logsumexp[0].transpose(0, 1)  # (N, H, K), (N, H)
        return AttentionResult(output, weights if rules.need_weights else None, logsumexp)

    def softmax(self, scores: Tensor, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Over the allowed keys, (B, H, T, S), and the logsumexp (B, H, T); a row with none gives zeros and -inf."""
        if allowed is None:
            return torch.softmax(scores, dim=-1), torch.logsumexp(scores, dim=-1)
        empty = ~allowed.any(dim=-1, keepdim=True)
        # an empty row is computed as if everything were allowed and then zeroed: -inf - -inf would be NaN, also backward
        scores = scores.masked_fill(~(allowed | empty), -torch.inf)
        weights = torch.softmax(scores, dim=-1).masked_fill(empty, 0.0)
        logsumexp = torch.logsumexp(scores, dim=-1).masked_fill(empty.squeeze(-1), -torch.inf)
        return weights, logsumexp
