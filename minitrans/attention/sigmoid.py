"""Sigmoid attention (Ramapuram et al. 2024, "Theory, Analysis, and Best Practices for Sigmoid Self-Attention")."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout

from minitrans.attention.packed import by_sequence
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.scores import dense_scores, over_values
from minitrans.attention.variant import LayerSizes, Variant

_FORBIDDEN = -1e4  # a bias that low is a mask by other means: the key does not count


class Sigmoid(Variant):
    """sigmoid(scores - log n) V: every key is judged for itself, and a row need not sum to one (section 2).

    Args:
        sizes: of the block.
        bias: what is added to the scores; None = -log n, n the number of keys that the query may attend to.
    """

    name = "sigmoid"

    def __init__(self, sizes: LayerSizes, *, bias: float | None = None) -> None:
        super().__init__(sizes)
        self.bias = bias

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """Sequence by sequence in a packed batch."""
        return by_sequence(self._rectangle, query, key, value, rules)

    def _rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        scores = dense_scores(query, key, rules)  # (B, H, T, S)
        if rules.bias is not None:
            scores = scores + rules.bias.to_dense(query, key, rules.scale_for(query))
        allowed = rules.mask.to_dense(query.shape[2], key.shape[2], query.device)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -torch.inf)
        shift: Tensor | float | None = self.bias
        if shift is None:
            seen = (scores > _FORBIDDEN).sum(dim=-1, keepdim=True)  # (B, H, T, 1)
            shift = -torch.log(seen.clamp(min=1).to(scores.dtype))
        weights = torch.sigmoid(scores + shift)
        output = over_values(dropout(weights, rules.dropout_p), value)
        return AttentionResult(output, weights if rules.need_weights else None)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """All but the logsumexp: there is no sum."""
        return "the logsumexp" if rules.need_logsumexp else None
