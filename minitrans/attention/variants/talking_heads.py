"""Talking-heads attention (Shazeer et al. 2020): heads exchange scores, and probabilities. + O(n² H²)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.rules import AttentionRules
from minitrans.attention.variant import Identity, LayerSizes


class TalkingHeads(DenseMechanism):
    """P_w · softmax(P_l · scores), the two (H, H) mixings learned, the identity at first.

    Args:
        sizes: of the block.
    """

    name = "talking_heads"
    identity = Identity()
    laws = ("linear in the values",)

    def __init__(self, sizes: LayerSizes) -> None:
        super().__init__(sizes)
        self.scores_mix = nn.Parameter(torch.eye(sizes.heads))  # P_l (H, H)
        self.weights_mix = nn.Parameter(torch.eye(sizes.heads))  # P_w (H, H)

    def scores(self, query: Tensor, key: Tensor, rules: AttentionRules) -> Tensor:
        """Those of all heads, mixed."""
        return torch.einsum("gh,bhts->bgts", self.scores_mix, super().scores(query, key, rules))

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Probabilities, mixed."""
        return torch.einsum("gh,bhts->bgts", self.weights_mix, super().weights(scores, allowed))
