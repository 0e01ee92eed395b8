"""A learned score for each head and bucket of distances (Raffel et al. 2020, "T5", section 2.1). No cost of its own."""

from __future__ import annotations

import torch
from torch import nn

from minitrans.attention.added_bias import AddedBias
from minitrans.attention.bias import AttentionBias, RelativeBuckets
from minitrans.attention.variant import CallSizes, Identity, LayerSizes


class BucketedDistances(AddedBias):
    """score + table[bucket(j - i), h]; the table is zero at first. T5 itself shares it over layers and scales nothing.

    Args:
        sizes: of the block.
        buckets: rows of the table.
        max_distance: from where on all distances share a bucket.
        bidirectional: half of the buckets for each side.
    """

    name = "t5_bias"
    trial = {"buckets": 8, "max_distance": 11}
    identity = Identity()

    def __init__(
        self, sizes: LayerSizes, *, buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ) -> None:
        super().__init__(sizes)
        self.max_distance, self.bidirectional = max_distance, bidirectional
        self.table = nn.Parameter(torch.zeros(buckets, sizes.heads))

    def added(self, sizes: CallSizes) -> AttentionBias:
        """The table."""
        return RelativeBuckets(self.table, self.bidirectional, self.max_distance)
