"""Relative positions as vectors that the query meets (Shaw et al. 2018, equation 5, keys only). + O(n² K) for the products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitrans.attention.added_bias import AddedBias
from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import distance
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class Shaw(AddedBias):
    """scale · q_i·(k_j + a[clip(j - i)]); the vectors are zero at first.

    Args:
        sizes: of the block.
        reach: distances beyond it are taken for it.
    """

    name = "shaw"
    trial = {"reach": 2}
    identity = Identity()

    def __init__(self, sizes: LayerSizes, *, reach: int = 16) -> None:
        super().__init__(sizes)
        self.vectors = nn.Parameter(torch.zeros(2 * reach + 1, sizes.head_width))

    def added(self, sizes: CallSizes) -> AttentionBias:
        """The products."""
        return _ClippedPositions(self.vectors)


@dataclass(frozen=True, eq=False)
class _ClippedPositions:
    vectors: Tensor  # (2 reach + 1, K)

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B, H, T, S)."""
        reach = self.vectors.shape[0] // 2
        products = query @ self.vectors.to(query.dtype).T * scale  # (B, H, T, 2 reach + 1)
        which = distance(query.shape[2], key.shape[2], query.device).clamp(-reach, reach) + reach
        return products.gather(-1, which.expand(*products.shape[:3], -1))
