"""Talking-heads attention (Shazeer et al. 2020): heads exchange scores before the softmax and probabilities after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from minitrans.attention.packed import by_sequence
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.scores import dense_scores, over_values
from minitrans.attention.variant import LayerSizes, Variant


class TalkingHeads(Variant):
    """P_w · softmax(P_l · scores), the two (H, H) mixings learned, the identity at first.

    Args:
        sizes: of the block.
    """

    name = "talking_heads"

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.scores_mix = nn.Parameter(torch.eye(sizes.heads))  # P_l (H, H)
        self.weights_mix = nn.Parameter(torch.eye(sizes.heads))  # P_w (H, H)

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """The whole scores are held, because every head sees those of all."""
        return by_sequence(self._rectangle, query, key, value, rules)

    def _rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        scores = dense_scores(query, key, rules)  # (B, H, T, S)
        scores = torch.einsum("gh,bhts->bgts", self.scores_mix, scores)
        if rules.bias is not None:
            scores = scores + rules.bias.to_dense(query, key, rules.scale_for(query))
        allowed = rules.mask.to_dense(query.shape[2], key.shape[2], query.device)
        if allowed is not None:
            empty = ~allowed.any(dim=-1, keepdim=True)
            scores = scores.masked_fill(~(allowed | empty), -torch.inf)
        weights = torch.softmax(scores, dim=-1)
        if allowed is not None:
            weights = weights.masked_fill(empty, 0.0)
        weights = torch.einsum("gh,bhts->bgts", self.weights_mix, weights)
        output = over_values(dropout(weights, rules.dropout_p), value)
        return AttentionResult(output, weights if rules.need_weights else None)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """All but the logsumexp, which mixed probabilities do not have."""
        return "the logsumexp" if rules.need_logsumexp else None
