"""Sigmoid attention, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, AttentionRules, DenseBias, PackedLayout

B, H, G, T, S, K = 2, 4, 2, 3, 5, 8
Make, Draw = Callable[..., Any], Callable[..., Tensor]


@pytest.mark.parametrize("shift", [None, -1.5])
@pytest.mark.parametrize("scale", [None, 0.4])
def test_every_key_is_judged_for_itself(shift: float | None, scale: float | None, make: Make, draw: Draw) -> None:
    variant = make({"name": "sigmoid", "bias": shift}, kv_heads=G)
    query, key, value, bias = (
        draw(*shape).detach() for shape in ((B, H, T, K), (B, G, S, K), (B, G, S, K), (B, H, T, S))
    )
    allowed = torch.rand(B, 1, T, S) > 0.4
    allowed[0, 0, 1] = False
    rules = AttentionRules(AttentionMask(dense=allowed), DenseBias(bias), scale=scale, need_weights=True)
    with torch.no_grad():
        found = variant.compute(query, key, value, rules)
    output, weights = torch.zeros(B, H, T, K, dtype=torch.float64), torch.zeros(B, H, T, S, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(T):
                seen = [j for j in range(S) if allowed[b, 0, i, j]]
                for j in seen:
                    score = float(query[b, h, i] @ key[b, h // 2, j]) * (K**-0.5 if scale is None else scale)
                    score += float(bias[b, h, i, j]) + (-math.log(len(seen)) if shift is None else shift)
                    weights[b, h, i, j] = 1 / (1 + math.exp(-score))
                    output[b, h, i] += weights[b, h, i, j] * value[b, h // 2, j]
    torch.testing.assert_close(found.weights, weights, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.output, output, rtol=1e-12, atol=1e-12)
    assert found.logsumexp is None


def test_n_is_the_number_of_allowed_keys_not_the_length(make: Make, draw: Draw) -> None:
    """With scores of 0 a row is n times 1 / (1 + n) of the mean: by hand."""
    variant = make("sigmoid")
    value = torch.ones(1, H, 6, K, dtype=torch.float64)
    for real in (1, 3, 6):
        mask = AttentionMask(key_padding=torch.arange(6)[None] < real)
        output = variant.compute(0 * value, value, value, AttentionRules(mask)).output
        torch.testing.assert_close(output, torch.full_like(output, real / (1 + real)), rtol=1e-12, atol=0)
    causal = variant.compute(0 * value, value, value, AttentionRules(AttentionMask(causal=True))).output
    torch.testing.assert_close(causal[0, 0, :, 0].tolist(), [n / (n + 1) for n in range(1, 7)], rtol=1e-12, atol=0)


@pytest.mark.parametrize("causal", [False, True])
def test_padded_equals_packed_equals_alone(causal: bool, make: Make) -> None:
    variant = make("sigmoid")
    lengths = [3, 5]
    x = torch.randn(8, H, K, dtype=torch.float64)
    mask = AttentionMask(causal=causal)
    packed = variant.compute(x, x, x, AttentionRules(mask, layout=PackedLayout.from_lengths(lengths))).output
    rows = torch.randn(2, H, 5, K, dtype=torch.float64)  # what stands at padding does not matter
    for row, part in zip(rows, x.split(lengths), strict=True):
        row[:, : len(part)] = part.transpose(0, 1)
    real = torch.arange(5) < torch.tensor(lengths)[:, None]
    padded = variant.compute(rows, rows, rows, AttentionRules(AttentionMask(real, causal=causal))).output
    for number, part in enumerate(x.split(lengths)):
        one = part.transpose(0, 1)[None]
        alone = variant.compute(one, one, one, AttentionRules(mask)).output[0]
        start = sum(lengths[:number])
        torch.testing.assert_close(packed[start : start + len(part)].transpose(0, 1), alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(padded[number, :, : len(part)], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("low", [-1e9, -65504.0])
def test_a_mask_written_as_a_bias_counts_as_one(low: float, make: Make, draw: Draw) -> None:
    """Those who come with 0 and -1e9, or the lowest float16, get the same n."""
    variant = make("sigmoid")
    query, key = draw(B, H, T, K), draw(B, H, S, K)
    allowed = torch.tensor([True, False, True, True, False]).expand(B, 1, T, S)
    bias = torch.zeros(B, 1, T, S, dtype=torch.float64).masked_fill(~allowed, low)
    found = variant.compute(query, key, key, AttentionRules(bias=DenseBias(bias))).output
    expected = variant.compute(query, key, key, AttentionRules(AttentionMask(dense=allowed))).output
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients(make: Make, draw: Draw) -> None:
    variant = make("sigmoid", heads=2)
    inputs = (draw(1, 2, 2, K), draw(1, 2, 4, K), draw(1, 2, 4, K), draw(1, 2, 2, 4))

    def run(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        rules = AttentionRules(AttentionMask(causal=True), DenseBias(bias), softcap=1.5)
        return variant.compute(query, key, value, rules).output  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
