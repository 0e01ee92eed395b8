"""A masked key has no weight at all, not merely a small one: -10000 would lose against real scores (M2)."""

from __future__ import annotations

import pytest
import torch

from minitrans.attention import AttentionMask, AttentionRules, attend
from minitrans.attention.registry import BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_masked_key_is_unseen_however_large_its_score(backend: str):
    query = torch.full((1, 1, 2, 4), 300.0, dtype=torch.float64)
    key = torch.full((1, 1, 3, 4), -300.0, dtype=torch.float64)
    key[:, :, 2] = (
        300.0  # its score is 180000, the others' -180000: less than the -10000 that some write into masked places
    )
    value = torch.tensor([1.0, 2.0, 1e6], dtype=torch.float64)[None, None, :, None].expand(1, 1, 3, 4)
    mask = AttentionMask(key_padding=torch.tensor([[True, True, False]]))
    output = attend(query, key, value, AttentionRules(mask), backend=backend).output
    torch.testing.assert_close(output, torch.full_like(output, 1.5), rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_of_1e5_do_not_overflow(backend: str):
    """exp(1e5) is infinite: the maximum has to be taken out before."""
    query = torch.full((1, 1, 1, 4), 300.0)
    key = torch.zeros(1, 1, 3, 4)
    key[:, :, 1] = 300.0
    value = torch.eye(3)[None, None, :, :].expand(1, 1, 3, 3)
    output = attend(query, key, torch.nn.functional.pad(value, (0, 1)), backend=backend).output
    torch.testing.assert_close(output[0, 0, 0], torch.tensor([0.0, 1.0, 0.0, 0.0]))
