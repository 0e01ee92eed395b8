"""Scalable-softmax (Nakanishi 2025, "Scalable-Softmax Is Superior for Attention"): scores grow with log n. O(n² K)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minitrans.attention.dense import DenseMechanism, forbid
from minitrans.attention.variant import Identity, LayerSizes


class ScalableSoftmax(DenseMechanism):
    """softmax(f(n) s), n the keys of this row, f(n) = s0 log n, s0 learned for each head.

    f(n) = 1 + s0 (log n - log reference) with `reference`, which is softmax at s0 = 0: where a swap begins.

    Args:
        sizes: of the block.
        initial: s0 at first.
        reference: the n at which nothing changes; None = the paper's form.
    """

    name = "scalable_softmax"
    trial = {"initial": 0.43, "reference": None}
    identity = Identity()
    laws = ("rows sum to one", "linear in the values")

    def __init__(self, sizes: LayerSizes, *, initial: float = 0.0, reference: float | None = 14.0) -> None:
        super().__init__(sizes)
        if reference is not None and not reference > 1:
            raise ValueError(f"reference must be more than 1, got {reference!r}")
        self.reference = reference
        self.strength = nn.Parameter(torch.full((sizes.heads,), initial))  # s0

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Each row by its own n."""
        growth = torch.log(allowed.sum(dim=-1, keepdim=True).clamp(min=1).to(scores.dtype))  # (B|1, H|1, T|1, 1)
        strength = self.strength[:, None, None]
        if self.reference is None:
            factor = strength * growth
        else:
            factor = 1 + strength * (growth - torch.log(torch.tensor(self.reference, dtype=scores.dtype)))
        return torch.softmax(forbid(scores.masked_fill(~allowed, 0.0) * factor, allowed), dim=-1)
