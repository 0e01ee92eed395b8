"""Signed attention: a key can be taken off (Lv et al. 2024, "More Expressive Attention with Negative Weights", "Cog Attention",
equation 3). O(n² K)."""

from __future__ import annotations

import torch
from torch import Tensor

from minitrans.attention.dense import DenseMechanism, forbid
from minitrans.attention.variant import Identity, LayerSizes


class Cog(DenseMechanism):
    """w = sign(s) softmax(|s|): the absolute weights of a row sum to one.

    Args:
        sizes: of the block.
        shift: added to the scores; where it makes all of them positive, that is softmax.
    """

    name = "cog"
    identity = Identity({"shift": 1e3})  # of scores above -1e3
    laws = ("linear in the values",)

    def __init__(self, sizes: LayerSizes, *, shift: float = 0.0) -> None:
        super().__init__(sizes)
        self.shift = shift

    def weights(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """Signs times weights of absolute scores."""
        shifted = scores.masked_fill(~allowed, 0.0) + self.shift
        return shifted.sign() * torch.softmax(forbid(shifted.abs(), allowed), dim=-1)
