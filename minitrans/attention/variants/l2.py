"""Attention by the distance of q and k (Kim et al. 2021, "The Lipschitz Constant of Self-Attention", section 3.2). + O(n²)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitrans.attention.added_bias import AddedBias
from minitrans.attention.bias import AttentionBias
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class L2(AddedBias):
    """score - c · scale · |k_j|² / 2: with c = 1 softmax of -scale · |q_i - k_j|² / 2, because |q_i|² moves a whole row.

    c is learned for each head, and 0 at first.

    Args:
        sizes: of the block.
        strength: c at first.
    """

    name = "l2"
    identity = Identity()

    def __init__(self, sizes: LayerSizes, *, strength: float = 0.0) -> None:
        super().__init__(sizes)
        self.strength = nn.Parameter(torch.full((sizes.heads,), strength))

    def added(self, sizes: CallSizes) -> AttentionBias:
        """What long keys lose."""
        return _Lengths(self.strength)


@dataclass(frozen=True, eq=False)
class _Lengths:
    strength: Tensor

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B, H, T, S)."""
        halves = key.square().sum(dim=-1).repeat_interleave(query.shape[1] // key.shape[1], dim=1) / 2  # (B, H, S)
        lost = scale * self.strength.to(query.dtype)[:, None] * halves
        return -lost[:, :, None].expand(-1, -1, query.shape[2], -1)
