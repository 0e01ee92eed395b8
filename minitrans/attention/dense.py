"""What mechanisms share that hold all scores and turn them into weights in their own way."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import dropout

from minitrans.attention.packed import by_sequence
from minitrans.attention.rules import AttentionResult, AttentionRules
from minitrans.attention.scores import dense_scores, over_values
from minitrans.attention.variant import Variant

_FORBIDDEN = -1e4  # a bias that low is a mask by other means


class DenseMechanism(Variant):
    """weights(scores) V, in O(T S K) time and O(T S) memory; one overrides `weights`, and `scores` where they are others.

    By itself it is softmax attention.
    """

    def scores(self, query: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """(B, H, T, S), before bias and mask."""
        return dense_scores(query, key, rules)

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """(B, H, T, S) -> (B, H, T, S); what it says of forbidden pairs does not matter.

        Args:
            scores: -inf where forbidden; but the scores as they are in a row in which everything is.
            allowed: (B|1, H|1, T|1, S) bool.
        """
        return torch.softmax(scores, dim=-1)

    def reweigh(self, weights: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """What becomes of the weights (B, H, T, S), zero where forbidden, by the keys and what the rules say besides."""
        return weights

    def output(self, weights: Tensor, value: Tensor, rules: AttentionRules) -> Tensor:
        """(B, H, T, S), (B, G, S, K) -> (B, H, T, K), with dropout."""
        return over_values(dropout(weights, rules.dropout_p), value)

    def compute(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """Sequence by sequence in a packed batch."""
        return by_sequence(self.rectangle, query, key, value, rules)

    def rectangle(self, query: Tensor, key: Tensor, value: Tensor, rules: AttentionRules) -> AttentionResult:
        """A padded batch."""
        scores = self.scores(query, key, rules)
        scores, allowed = biased(scores, query, key, rules)
        weights = self.weights(forbid(scores, allowed), allowed).masked_fill(~allowed, 0.0)
        weights = self.reweigh(weights, key, rules)
        return AttentionResult(self.output(weights, value, rules), weights if rules.need_weights else None)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """All but the logsumexp."""
        return "the logsumexp" if rules.need_logsumexp else None


def biased(scores: Tensor, query: Tensor, key: Tensor, rules: AttentionRules) -> tuple[Tensor, Tensor]:
    """Scores (B, H, T, S) with the bias, and what is allowed, (B|1, H|1, T|1, S)."""
    allowed = rules.mask.to_dense(query.shape[2], key.shape[2], query.device)
    if allowed is None:
        allowed = torch.ones(1, 1, 1, key.shape[2], dtype=torch.bool, device=query.device)
    if rules.bias is not None:
        bias = rules.bias.to_dense(query, key, rules.scale_for(query))
        scores, allowed = scores + bias, allowed & (bias > _FORBIDDEN)
    return scores, allowed


def forbid(scores: Tensor, allowed: Tensor) -> Tensor:
    """-inf where forbidden; an empty row stays as it is: of nothing but -inf softmax would make NaN, also backward."""
    return scores.masked_fill(~(allowed | ~allowed.any(dim=-1, keepdim=True)), -torch.inf)
