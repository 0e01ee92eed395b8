"""Positions as scores: tables that are added to attention, of distances in buckets (T5) or of vectors (BERT)."""

from __future__ import annotations

from torch import nn

from minitrans.attention.bias import RelativeBuckets, RelativePositions


class BucketBias(nn.Embedding):
    """A learned score per head and bucket of distance (Raffel et al. 2020); a `Stack` shares one among its blocks.

    Args:
        rows: of the table.
        heads: H.
        bidirectional: half of the buckets for each side (T2).
        max_distance: from where on all distances share a bucket.
        buckets: how many of the rows are used; None = all (P1).
    """

    def __init__(
        self,
        rows: int,
        heads: int,
        *,
        bidirectional: bool = True,
        max_distance: int = 128,
        buckets: int | None = None,
    ) -> None:
        super().__init__(rows, heads)
        self.bidirectional, self.max_distance, self.buckets = bidirectional, max_distance, buckets

    def bias(self) -> RelativeBuckets:
        """What is added to the scores."""
        return RelativeBuckets(self.weight[: self.buckets], self.bidirectional, self.max_distance)


class DistanceEmbedding(nn.Embedding):
    """A learned vector per distance, times the query and perhaps the key (M8); every attention has its own.

    Args:
        positions: P, the longest sequence.
        head_width: K.
        with_key: multiply with the key too.
    """

    def __init__(self, positions: int, head_width: int, *, with_key: bool = False) -> None:
        super().__init__(2 * positions - 1, head_width)
        self.with_key = with_key

    def bias(self) -> RelativePositions:
        """What is added to the scores."""
        return RelativePositions(self.weight, self.with_key)
