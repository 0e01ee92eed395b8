"""Disentangled attention: contents meet positions on both sides (He et al. 2021, "DeBERTa", equation 4). + O(n (2 reach) K)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minitrans.attention.added_bias import AddedBias
from minitrans.attention.bias import AttentionBias
from minitrans.attention.mask import distance
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class Disentangled(AddedBias):
    """scale · [q_i·k_j + q_i·K_r[d(i, j)] + k_j·Q_r[d(j, i)]], d a bucket of i - j; both tables are zero at first.

    DeBERTa makes the tables of shared embeddings by the block's own projections, and has the scale (3K)^(-1/2).

    Args:
        sizes: of the block.
        reach: half the number of buckets.
        max_distance: buckets are exact up to half the reach, then grow logarithmically up to here (DeBERTa-v2);
            None = exact all along, clipped at the reach (DeBERTa).
    """

    name = "disentangled"
    trial = {"reach": 4, "max_distance": 6}
    identity = Identity()

    def __init__(self, sizes: LayerSizes, *, reach: int = 256, max_distance: int | None = 512) -> None:
        super().__init__(sizes)
        self.reach, self.max_distance = reach, max_distance
        self.key_table = nn.Parameter(torch.zeros(sizes.heads, 2 * reach, sizes.head_width))
        self.query_table = nn.Parameter(torch.zeros(sizes.heads, 2 * reach, sizes.head_width))

    def added(self, sizes: CallSizes) -> AttentionBias:
        """The two terms with positions."""
        return _BothWays(self.key_table, self.query_table, self.max_distance)


@dataclass(frozen=True, eq=False)
class _BothWays:
    key_table: Tensor
    query_table: Tensor
    max_distance: int | None

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B, H, T, S)."""
        key_table, query_table = self.key_table.to(query.dtype), self.query_table.to(query.dtype)
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        which = self.buckets(-distance(query.shape[2], key.shape[2], query.device))  # (T, S)
        to_position = (query @ key_table.mT).gather(-1, which.expand(*query.shape[:3], -1))
        # d(j, i) is the bucket of i - j as well: DeBERTa reads both tables at the same place
        to_content = (key @ query_table.mT).gather(-1, which.T.expand(*key.shape[:3], -1)).mT
        return scale * (to_position + to_content)

    def buckets(self, behind: Tensor) -> Tensor:
        """The row of the tables of each distance i - j."""
        reach, middle = self.key_table.shape[1] // 2, self.key_table.shape[1] // 4
        if self.max_distance is not None:
            gap = behind.abs().clamp(min=middle).double()
            grown = (
                torch.ceil(torch.log(gap / middle) / math.log((self.max_distance - 1) / middle) * (middle - 1)) + middle
            )
            behind = torch.where(behind.abs() <= middle, behind, grown.long() * behind.sign())
        return (behind + reach).clamp(0, 2 * reach - 1)
