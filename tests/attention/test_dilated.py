"""Dilated windows, pair by pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from minitrans.attention import AttentionMask, CallSizes, Context, PackedLayout
from minitrans.attention.registry import BACKENDS
from minitrans.layers.cache import GrowingCache
from minitrans.layers.multi_head_attention import MultiHeadAttention

CPU = torch.device("cpu")
Make = Callable[..., Any]


def dense(variant: Any, queries: int, keys: int, mask: AttentionMask | None = None) -> list[list[bool]]:
    sizes = CallSizes(1, queries, keys, 4, CPU)
    restricted, bias = variant.restrict(AttentionMask() if mask is None else mask, None, sizes)
    assert bias is None
    found = restricted.to_dense(queries, keys, CPU)
    return found.expand(1, 1, queries, keys)[0, 0].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("window", [None, 2, 4])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize(("queries", "keys"), [(11, 11), (3, 11), (1, 8), (9, 4)])
def test_pairs(window: int | None, dilation: int, queries: int, keys: int, make: Make) -> None:
    variant = make({"name": "dilated", "window": window, "dilation": dilation})
    expected = []
    for i in range(queries):
        steps = range(-keys - queries, keys + queries) if window is None else range(-(window // 2), window // 2 + 1)
        seen = {i + keys - queries + step * dilation for step in steps}
        expected.append([j in seen for j in range(keys)])
    assert dense(variant, queries, keys) == expected


def test_a_row_in_the_middle_sees_window_plus_one_keys(make: Make) -> None:
    rows = dense(make({"name": "dilated", "window": 6, "dilation": 3}), 41, 41)
    assert sum(rows[20]) == 7
    assert [j for j in range(41) if rows[20][j]] == [11, 14, 17, 20, 23, 26, 29]


def test_step_one_is_a_sliding_window(make: Make) -> None:
    dilated, window = (
        make({"name": "dilated", "window": 4, "dilation": 1}),
        make({"name": "sliding_window", "window": 4}),
    )
    assert dense(dilated, 9, 12) == dense(window, 9, 12)


def test_the_given_mask_stays(make: Make) -> None:
    variant = make({"name": "dilated", "window": 4})
    given = AttentionMask(causal=True, key_padding=torch.tensor([[True] * 6 + [False] * 3]))
    for row, free in zip(dense(variant, 9, 9, given), enumerate(dense(variant, 9, 9)), strict=True):
        i, without = free
        assert row == [without[j] and j <= i and j < 6 for j in range(9)]


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_packed_sequences_have_windows_of_their_own(backend: str, block: Callable[..., MultiHeadAttention]) -> None:
    module = block({"name": "dilated", "window": 2, "dilation": 2}, backend)
    x, layout = torch.randn(12, 32, dtype=torch.float64), PackedLayout.from_lengths([5, 7])
    packed = module(x, Context(layout=layout)).output
    for span in (slice(0, 5), slice(5, 12)):
        torch.testing.assert_close(packed[span], module(x[None, span], Context()).output[0], rtol=1e-10, atol=1e-10)
    module.set_attention("full", backend)
    assert (module(x, Context(layout=layout)).output - packed).abs().max() > 1e-3


@torch.no_grad()
def test_a_new_token_looks_back_with_the_same_gaps(block: Callable[..., MultiHeadAttention]) -> None:
    module = block({"name": "dilated", "dilation": 3})
    x, mask, cache = torch.randn(1, 8, 32, dtype=torch.float64), AttentionMask(causal=True), GrowingCache()
    steps = [module(x[:, at : at + 1], Context(mask), cache).output for at in range(8)]
    torch.testing.assert_close(torch.cat(steps, 1), module(x, Context(mask)).output, rtol=1e-10, atol=1e-10)
