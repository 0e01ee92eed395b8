"""Parallax: softmax attention corrected by a covariance (Zuo et al. 2026, "Parallax: Parameterized Local Linear Attention",
algorithm 1). O(n² K) + O(n D²)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.rules import AttentionRules
from minitrans.attention.scores import dense_scores
from minitrans.attention.variant import Identity, LayerSizes


class Parallax(DenseMechanism):
    """out_i = E[v] - Cov(r_i·k, v) under softmax's probabilities p_i, r = x W a second query of each head, not scaled.

    That is weights p_ij (1 + E[r_i·k] - r_i·k_j), which sum to one and may be negative; W is zero at first.

    Args:
        sizes: of the block.
    """

    name = "parallax"
    identity = Identity()
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.second_query = nn.Parameter(torch.zeros(sizes.heads * sizes.head_width, sizes.width))  # W

    def reweigh(self, weights: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """The correction; forbidden pairs stay at zero."""
        assert rules.x is not None
        second = torch.unflatten(rules.x @ self.second_query.T, -1, (self.sizes.heads, -1)).transpose(1, 2)
        along = dense_scores(second, key, AttentionRules(scale=1.0))  # (B, H, T, S)
        return weights * (1 + (weights * along).sum(dim=-1, keepdim=True) - along)

    def supports(self, rules: AttentionRules, query: Tensor) -> str | None:
        """The second query meets the keys as they are, whatever the scale."""
        another = rules.scale_for(query) != query.shape[-1] ** -0.5
        return "another scale than K ** -0.5" if another else super().supports(rules, query)
