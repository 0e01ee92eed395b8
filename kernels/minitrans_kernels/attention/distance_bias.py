"""Scores that depend on the distance between query and key alone: one number per head and distance."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class RelativeBias(NamedTuple):
    """A learned score per head and bucket of distance (Raffel et al. 2020, "T5", section 2.1).

    Half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`; a bidirectional
    table gives one half of its buckets to each side.

    Attributes:
        table: (buckets, H) floating point.
        bidirectional: whether keys to the right have buckets of their own; otherwise they share that of distance 0.
        max_distance: where the last bucket begins.
    """

    table: Tensor
    bidirectional: bool = True
    max_distance: int = 128


def distance_bias(
    queries: int, keys: int, relative_bias: RelativeBias | None, alibi_slopes: Tensor | None, dtype: torch.dtype
) -> Tensor | None:
    """(H, T + S - 1), at index d + S - 1 what is added where the key stands d to the right of the query; None without either.

    Args:
        queries: T, or the longest of a packed batch.
        keys: S, likewise.
        relative_bias: T5's buckets.
        alibi_slopes: (H); -slope · |d| is added (Press et al. 2022, "Train Short, Test Long", in its symmetric form).
        dtype: of the result.
    """
    given = alibi_slopes if relative_bias is None else relative_bias.table
    if given is None:
        return None
    device = given.device
    ahead = torch.arange(1 - keys, max(queries, 1 - keys), device=device)
    total: Tensor | None = None
    if relative_bias is not None:
        table = relative_bias.table.to(dtype)
        bucket = _bucket(ahead, table.shape[0], relative_bias.bidirectional, relative_bias.max_distance)
        one_hot = torch.arange(table.shape[0], device=device)[:, None] == bucket
        # a product, so that the gradient of the table is one too: sums in a fixed order, where an index would race
        with torch.autocast(device.type, enabled=False):
            total = table.T @ one_hot.to(dtype)
    if alibi_slopes is not None:
        falling = -alibi_slopes.to(dtype)[:, None] * ahead.abs()
        total = falling if total is None else total + falling
    return total


def _bucket(ahead: Tensor, count: int, bidirectional: bool, max_distance: int) -> Tensor:
    """The bucket of each distance `ahead` = key position - query position."""
    first: Tensor | int = 0
    gap = (-ahead).clamp(min=0)
    if bidirectional:
        count //= 2
        first, gap = (ahead > 0) * count, ahead.abs()
    exact = count // 2
    # float32, as in the original: where the logarithm falls on the border of two buckets, its rounding decides
    growth = torch.log(gap.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (growth * (count - exact)).long()).clamp(max=count - 1)
    return first + torch.where(gap < exact, gap, far)
