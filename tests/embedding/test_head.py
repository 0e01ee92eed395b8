"""The kinds of pooling, one text at a time."""

from __future__ import annotations

import pytest
import torch

from minitrans.embedding import POOLINGS, pool


@pytest.mark.parametrize("kind", POOLINGS)
def test_padding_on_either_side_takes_no_part(kind: str):
    states = torch.randn(2, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    expected = []
    for tokens in (states[0, 2:], states[1, :2]):
        rising = torch.arange(1, len(tokens) + 1, dtype=torch.float64)[:, None]
        expected.append(
            {
                "mean": tokens.mean(0),
                "cls": tokens[0],
                "max": tokens.amax(0),
                "mean_sqrt_len": tokens.sum(0) / len(tokens) ** 0.5,
                "weightedmean": (tokens * rising).sum(0) / rising.sum(),
                "lasttoken": tokens[-1],
            }[kind]
        )
    assert torch.allclose(pool(states, mask, kind), torch.stack(expected), atol=1e-14)


@pytest.mark.parametrize("kind", ["mean", "weightedmean"])
def test_half_precision_is_summed_in_single(kind: str):
    states = torch.full((1, 300, 2), 1000.0, dtype=torch.float16)  # the sum is beyond float16
    found = pool(states, torch.ones(1, 300, dtype=torch.bool), kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.full((1, 2), 1000.0))
