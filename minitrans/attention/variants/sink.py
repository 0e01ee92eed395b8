"""Attention sinks (OpenAI 2025, "gpt-oss"; Miller 2023, "Attention Is Off By One"): a head may attend to nothing at all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from minitrans.attention.context import Context
from minitrans.attention.rules import AttentionResult
from minitrans.attention.variant import Identity, LayerSizes, Variant


class Sink(Variant):
    """Softmax with an extra logit s for each head that has no value: exp(score) / (exp(s) + sum of exp(scores)).

    Written with the logsumexp L of the scores, that is softmax times sigmoid(L - s): it runs on every backend that gives L.

    Args:
        sizes: of the block.
        initial: s at the beginning; 0 is softmax-one.
        learned: whether s is a parameter (H), or stays.
    """

    name = "sink"
    identity = Identity({"initial": -1e4}, limit="s to minus infinity")
    laws = ("rows sum to less than one", "linear in the values")
    needs_logsumexp = True

    def __init__(self, sizes: LayerSizes, *, initial: float = 0.0, learned: bool = True) -> None:
        super().__init__(sizes)
        self.initial = initial
        self.logit = nn.Parameter(torch.full((sizes.heads,), initial)) if learned else None

    def finish(self, result: AttentionResult, x: Tensor, context: Context) -> AttentionResult:
        """Output and probabilities times what the sink leaves of them."""
        assert result.logsumexp is not None
        logsumexp = result.logsumexp  # (B, H, T), or (N, H)
        sink: Tensor | float = self.initial
        if self.logit is not None:
            sink = self.logit if context.layout is not None else self.logit[:, None]
        left = torch.sigmoid(logsumexp - sink)
        weights = result.weights
        if weights is not None:
            of_rows = left.transpose(0, 1)[None] if context.layout is not None else left
            weights = (weights * of_rows[..., None]).to(weights.dtype)
        return replace(result, output=(result.output * left[..., None]).to(result.output.dtype), weights=weights)
