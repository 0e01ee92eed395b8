"""Softpick (Zuhri et al. 2025): a rectified softmax without sinks; a row may sum to less than one. O(n² K)."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.dense import DenseMechanism
from minitrans.attention.variant import Identity, LayerSizes


class Softpick(DenseMechanism):
    """relu(e^s - 1) / sum |e^s - 1| (equation 3); forbidden scores enter neither.

    Args:
        sizes: of the block.
        shift: added to the scores; the larger, the nearer to softmax.
        eps: added to the sum, in units of the largest term.
    """

    name = "softpick"
    identity = Identity({"shift": 40.0}, limit="shift to infinity, with an error of e^-shift")
    laws = ("linear in the values",)

    def __init__(self, sizes: LayerSizes, *, shift: float = 0.0, eps: float = 1e-12) -> None:
        super().__init__(sizes)
        self.shift, self.eps = shift, eps

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Numerator and denominator both times e^-m, m the largest score, or 0."""
        scores = scores + self.shift
        m = scores.amax(dim=-1, keepdim=True).clamp(min=0.0).detach()
        terms = (torch.exp(scores - m) - torch.exp(-m)).masked_fill(~allowed, 0.0)
        return torch.relu(terms) / (terms.abs().sum(dim=-1, keepdim=True) + self.eps)
