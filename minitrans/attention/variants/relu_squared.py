"""Squared ReLU in the place of the exponential (Hua et al. 2022, "Transformer Quality in Linear Time", section 3.1). O(n² K)."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.variant import LayerSizes


class ReluSquared(DenseMechanism):
    """relu(s)² over its sum, zeros where no score is above 0; or over n, the number of keys.

    Args:
        sizes: of the block.
        normalised: whether by the sum.
    """

    name = "relu_squared"
    laws = ("linear in the values",)

    def __init__(self, sizes: LayerSizes, *, normalised: bool = True) -> None:
        super().__init__(sizes)
        self.normalised = normalised

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Scores of 0 and less have no weight."""
        if not self.normalised:
            return torch.relu(scores).square() / allowed.sum(dim=-1, keepdim=True).clamp(min=1)
        # divided by the largest first: small and large squares keep their digits
        largest = torch.relu(scores.amax(dim=-1, keepdim=True))
        squares = (torch.relu(scores) / largest.where(largest > 0, 1.0)).square()
        return squares / squares.sum(dim=-1, keepdim=True).where(largest > 0, 1.0)
