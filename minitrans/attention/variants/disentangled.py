"""Disentangled attention: contents meet positions on both sides (He et al. 2021, "DeBERTa", equation 4). + O(n (2 reach) K)."""

from __future__ import annotations

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
        return DisentangledBias(self.key_table, self.query_table, self.reach, self.max_distance)


@dataclass(frozen=True, eq=False)
class DisentangledBias:
    """scale · [q_i·K_r[d(i, j)] + k_j·Q_r[d(j, i)]].

    Attributes:
        key_table: K_r (H, 2 reach, K); None = there is no such term.
        query_table: Q_r, likewise.
        reach: see `Disentangled`.
        max_distance: see `Disentangled`.
    """

    key_table: Tensor | None
    query_table: Tensor | None
    reach: int
    max_distance: int | None

    def to_dense(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """(B, H, T, S)."""
        behind = -distance(query.shape[2], key.shape[2], query.device)
        scores = query.new_zeros(1, 1, query.shape[2], key.shape[2])
        if self.key_table is not None:
            products, which = query @ self.key_table.to(query.dtype).mT, self.buckets(behind)  # (T, S)
            scores = products.gather(-1, which.expand(*query.shape[:3], -1))
        if self.query_table is not None:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
            products, which = key @ self.query_table.to(query.dtype).mT, self.buckets(behind)
            # d(j, i) is the bucket of i - j as well: DeBERTa reads both tables at the same place
            scores = scores + products.gather(-1, which.T.expand(*key.shape[:3], -1)).mT
        return scale * scores

    def buckets(self, behind: Tensor) -> Tensor:
        """The row of the tables of each distance i - j."""
        reach, middle = self.reach, self.reach // 2
        if self.max_distance is not None:
            # float32, as in the original: where the logarithm falls on the border of two buckets its rounding decides
            gap, most = behind.abs().clamp(min=middle).float(), torch.tensor((self.max_distance - 1) / middle)
            grown = torch.ceil(torch.log(gap / middle) / most.log() * (middle - 1)) + middle
            behind = torch.where(behind.abs() <= middle, behind, grown.long() * behind.sign())
        return (behind + reach).clamp(0, 2 * reach - 1)
