"""Stick-breaking attention (Tan et al. 2024): near keys take their share first, and the rest is left for the far. O(n² K)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from minitrans.attention.dense import DenseMechanism


class StickBreaking(DenseMechanism):
    """w_ij = beta_ij times the product of 1 - beta_il over the keys l nearer to i than j, beta = sigmoid(s).

    Nearness: the token itself, then by distance, of two at the same distance the left one first. So it has a form for
    encoders; under a causal mask it is the paper's, with the token itself. A row sums to one less what is left of the stick.
    """

    name = "stick_breaking"
    laws = ("rows sum to less than one", "linear in the values")

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Row by row in the order of nearness; forbidden keys break nothing off."""
        queries, keys = scores.shape[-2:]
        ahead = (
            torch.arange(keys, device=scores.device) - torch.arange(keys - queries, keys, device=scores.device)[:, None]
        )
        order = (2 * ahead.abs() + (ahead > 0)).argsort(dim=-1).expand(scores.shape)  # (B, H, T, S)
        taken = logsigmoid(scores).gather(-1, order)
        left = logsigmoid(-scores).masked_fill(~allowed, 0.0).gather(-1, order)
        broken = torch.exp(taken + left.cumsum(-1) - left)
        return torch.zeros_like(scores).scatter(-1, order, broken)
