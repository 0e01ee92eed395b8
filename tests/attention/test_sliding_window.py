"""The sliding window, and how it meets a window that is there already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from minitrans.attention import AttentionMask, CallSizes, DenseBias

SIZES = CallSizes(1, 9, 9, 4, torch.device("cpu"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, (2, 2)), ((1, None), (1, 2)), ((None, 0), (2, 0)), ((5, 7), (2, 2)), ((1, 1), (1, 1)), ((2, 3), (2, 2)),
    ],
)  # fmt: skip
def test_the_tighter_of_two_windows_is_kept(
    given: tuple[int | None, int | None] | None, expected: tuple[int, int], make: Callable[..., Any]
) -> None:
    real, bias = torch.ones(1, 9, dtype=torch.bool), DenseBias(torch.zeros(1, 1, 9, 9))
    mask, kept = make({"name": "sliding_window", "window": 4}).restrict(
        AttentionMask(real, causal=True, window=given), bias, SIZES
    )
    assert mask.window == expected
    assert mask.causal
    assert mask.key_padding is real
    assert kept is bias


def test_a_row_sees_window_plus_one_keys(make: Callable[..., Any]) -> None:
    mask, _ = make({"name": "sliding_window", "window": 4}).restrict(AttentionMask(), None, SIZES)
    rows = mask.to_dense(9, 9, torch.device("cpu"))[0, 0]
    assert [[j for j in range(9) if row[j]] for row in rows] == [
        list(range(max(0, i - 2), min(9, i + 3))) for i in range(9)
    ]
