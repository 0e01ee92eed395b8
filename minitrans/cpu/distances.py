"""Scores of distances (Raffel et al. 2020) for the rows of a packed batch, where distances are those between cells of a row."""

from __future__ import annotations

from dataclasses import replace

import torch

from minitrans.attention.bias import RelativeBuckets
from minitrans.cpu.rows import Rectangle, Rows


class Distances:
    """A learned score per head and bucket of distance, the same in every block.

    Args:
        bias: whose table to take; it is copied.
        dtype: of the attention.
    """

    def __init__(self, bias: RelativeBuckets, dtype: torch.dtype) -> None:
        table = bias.table.detach().to(dtype, copy=True)
        self.bias = RelativeBuckets(table, bias.bidirectional, bias.max_distance)

    def added_to(self, rows: Rows) -> Rows:
        """The rows, their masks with these scores."""
        furthest = max((part.reach for part in rows.in_place + rows.shared), default=0)
        buckets = self.bias.buckets(torch.arange(-furthest, furthest + 1))
        scores = self.bias.table[buckets].T.contiguous()  # (H, distances)

        def with_scores(part: Rectangle) -> Rectangle:
            keys, queries = torch.arange(part.reach) - part.before, torch.arange(part.length)
            of_cells = scores[:, keys - queries[:, None] + furthest][None]  # (1, H, length, reach)
            return replace(part, mask=of_cells if part.mask is None else of_cells + part.mask)

        in_place, shared = (tuple(map(with_scores, parts)) for parts in (rows.in_place, rows.shared))
        return replace(rows, in_place=in_place, shared=shared)
