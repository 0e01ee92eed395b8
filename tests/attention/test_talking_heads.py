"""Talking heads against loops, and at the identity against full attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, AttentionRules, Context, DenseBias, PackedLayout, attend
from minitrans.attention.specs import build_variants
from minitrans.attention.variant import LayerSizes
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, G, T, S, K = 2, 4, 2, 3, 5, 8
Make, Draw = Callable[..., Any], Callable[..., Tensor]


def loops(
    variant: Any, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """One pair, one head at a time: P_w · softmax(P_l · scores + bias)."""
    output, mixed = torch.zeros(B, H, T, K, dtype=torch.float64), torch.zeros(B, H, T, S, dtype=torch.float64)
    into, out = variant.scores_mix.tolist(), variant.weights_mix.tolist()
    for b in range(B):
        for i in range(T):
            seen = [j for j in range(S) if allowed[b, 0, i, j]]
            probabilities = []
            for h in range(H):
                scores = []
                for j in seen:
                    raw = [float(query[b, g, i] @ key[b, g // (H // G), j]) * K**-0.5 for g in range(H)]
                    scores.append(sum(into[h][g] * raw[g] for g in range(H)) + float(bias[b, h, i, j]))
                total = sum(math.exp(score) for score in scores)
                probabilities.append([math.exp(score) / total for score in scores])
            for h in range(H):
                for at, j in enumerate(seen):
                    weight = sum(out[h][g] * probabilities[g][at] for g in range(H))
                    mixed[b, h, i, j] = weight
                    output[b, h, i] += weight * value[b, h // (H // G), j]
    return output, mixed


def test_it_is_what_the_loops_say(make: Make, draw: Draw) -> None:
    variant = make("talking_heads", kv_heads=G)
    query, key, value = draw(B, H, T, K), draw(B, G, S, K), draw(B, G, S, K)
    allowed, bias = torch.rand(B, 1, T, S) > 0.4, draw(B, H, T, S)
    allowed[1, 0, 2] = False  # nothing to see
    rules = AttentionRules(AttentionMask(dense=allowed), DenseBias(bias), need_weights=True)
    with torch.no_grad():
        found = variant.compute(query, key, value, rules)
        output, weights = loops(variant, *(t.detach() for t in (query, key, value)), allowed, bias.detach())
    torch.testing.assert_close(found.output, output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.weights, weights, rtol=1e-12, atol=1e-12)
    assert (found.output[1, :, 2] == 0).all()


@pytest.mark.parametrize("packed", [False, True])
def test_the_identity_is_full_attention(packed: bool) -> None:
    (variant,) = build_variants("talking_heads", LayerSizes(H * K, H, G, K))
    variant.double()
    shape = (7,) if packed else (B, 7)
    query, key = (torch.randn(*shape, heads, K, dtype=torch.float64) for heads in (H, G))
    if not packed:
        query, key = query.transpose(1, 2), key.transpose(1, 2)
    layout = PackedLayout.from_lengths([3, 0, 4]) if packed else None
    rules = AttentionRules(AttentionMask(causal=True), layout=layout, scale=0.7, softcap=2.0, need_weights=True)
    found, expected = variant.compute(query, key, key, rules), attend(query, key, key, rules, backend="eager")
    torch.testing.assert_close(found.output, expected.output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.weights, expected.weights, rtol=1e-12, atol=1e-12)


def test_the_two_mixings_are_on_either_side_of_the_softmax(make: Make, draw: Draw) -> None:
    """A permutation of the scores, undone after the softmax, is no change of probabilities but one of biases."""
    variant = make("talking_heads")
    query, key, value, bias = draw(B, H, T, K), draw(B, H, S, K), draw(B, H, S, K), draw(1, H, T, S)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        variant.scores_mix.copy_(torch.eye(H)[order])
        variant.weights_mix.copy_(torch.eye(H)[order].T)
        found = variant.compute(query, key, value, AttentionRules(bias=DenseBias(bias[:, order]))).output
        expected = attend(query, key, value, AttentionRules(bias=DenseBias(bias)), backend="eager").output
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients(make: Make, draw: Draw) -> None:
    variant = make("talking_heads", heads=3)
    inputs = (draw(1, 3, 2, K), draw(1, 3, 4, K), draw(1, 3, 4, K), *variant.parameters())
    rules = AttentionRules(AttentionMask(causal=True))
    assert torch.autograd.gradcheck(lambda q, k, v, *_: variant.compute(q, k, v, rules).output, inputs, fast_mode=True)


@torch.no_grad()
def test_in_a_block_at_the_identity(block: Callable[..., MultiHeadAttention]) -> None:
    module = block("full")
    x, mask = torch.randn(B, T, 32, dtype=torch.float64), AttentionMask(causal=True)
    expected = module(x, Context(mask)).output
    module.set_attention("talking_heads")
    torch.testing.assert_close(module(x, Context(mask)).output, expected, rtol=1e-12, atol=1e-12)
    module.variants[0].weights_mix.add_(0.1)
    assert (module(x, Context(mask)).output - expected).abs().max() > 1e-3
