"""Sigmoid attention (Ramapuram et al. 2024, "Theory, Analysis, and Best Practices for Sigmoid Self-Attention"). O(n² K)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.variant import LayerSizes


class Sigmoid(DenseMechanism):
    """sigmoid(scores - log n) V: every key is judged for itself, and a row need not sum to one (section 2).

    Args:
        sizes: of the block.
        bias: what is added to the scores; None = -log n; "logsumexp" = minus that of the row, which makes p / (1 + p) of
            the probability p of a softmax.
    """

    name = "sigmoid"
    laws = ("linear in the values",)

    def __init__(self, sizes: LayerSizes, *, bias: float | Literal["logsumexp"] | None = None) -> None:
        super().__init__(sizes)
        if isinstance(bias, str) and bias != "logsumexp":
            raise ValueError(f"bias must be a number, 'logsumexp' or None, got {bias!r}")
        self.bias = bias

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Pair by pair."""
        if self.bias == "logsumexp":
            return torch.sigmoid(scores - scores.logsumexp(dim=-1, keepdim=True))
        if self.bias is not None:
            return torch.sigmoid(scores + self.bias)
        seen = allowed.sum(dim=-1, keepdim=True).clamp(min=1)
        return torch.sigmoid(scores - torch.log(seen.to(scores.dtype)))
