"""Scores by distance are those of minitrans' biases, which were written apart from these."""

from __future__ import annotations

import pytest
import torch
from minitrans_kernels import RelativeBias
from minitrans_kernels.attention.distance_bias import distance_bias

from minitrans.attention import ALiBi, RelativeBuckets

H, K = 3, 8


def spread(table: torch.Tensor, queries: int, keys: int) -> torch.Tensor:
    """(H, T + S - 1) -> (H, T, S), by the words of `AttentionArgs.distance_bias`."""
    i, j = torch.arange(queries)[:, None], torch.arange(keys)[None]
    return table[:, j - (i + keys - queries) + keys - 1]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 5), (3, 9), (9, 3), (700, 700), (1, 2000), (2000, 1)])
@pytest.mark.parametrize(
    ("buckets", "bidirectional", "max_distance"), [(32, True, 128), (32, False, 128), (8, True, 11), (6, False, 4), (64, True, 1024)]
)  # fmt: skip
def test_buckets(queries: int, keys: int, buckets: int, bidirectional: bool, max_distance: int):
    table = torch.randn(buckets, H, dtype=torch.float64, requires_grad=True)
    theirs = RelativeBuckets(table, bidirectional, max_distance)
    expected = theirs.to_dense(table.new_empty(1, H, queries, K), table.new_empty(1, H, keys, K), 1.0)[0]
    found = distance_bias(queries, keys, RelativeBias(table, bidirectional, max_distance), None, torch.float64)
    assert found is not None
    assert torch.equal(spread(found, queries, keys), expected)
    weights = torch.rand(H, queries, keys, dtype=torch.float64)
    ours, reference = (
        torch.autograd.grad((scores * weights).sum(), table)[0] for scores in (spread(found, queries, keys), expected)
    )
    torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 5), (3, 9), (9, 3)])
def test_alibi(queries: int, keys: int):
    slopes = torch.rand(H)
    expected = ALiBi(slopes).to_dense(torch.empty(1, H, queries, K), torch.empty(1, H, keys, K), 1.0)[0]
    found = distance_bias(queries, keys, None, slopes, torch.float32)
    assert found is not None
    assert torch.equal(spread(found, queries, keys), expected)


def test_both_are_summed_and_neither_is_none():
    relative, slopes = RelativeBias(torch.randn(8, H), True, 11), torch.rand(H)
    both, first, second = (
        distance_bias(4, 6, *given, torch.float64) for given in ((relative, slopes), (relative, None), (None, slopes))
    )
    assert both is not None
    assert first is not None
    assert second is not None
    torch.testing.assert_close(both, first + second)
    assert distance_bias(4, 6, None, None, torch.float32) is None


@pytest.mark.parametrize(("queries", "keys"), [(0, 0), (0, 3), (3, 0)])
def test_no_tokens(queries: int, keys: int):
    found = distance_bias(queries, keys, RelativeBias(torch.randn(8, H)), torch.rand(H), torch.float32)
    assert found is not None
    assert found.shape == (H, max(queries + keys - 1, 0))
