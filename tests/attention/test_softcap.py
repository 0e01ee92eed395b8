"""Capped scores, pair by pair, on every backend that has them; and the variant that asks for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, AttentionRules, Context, DenseBias, PackedLayout, attend
from minitrans.attention.registry import BACKENDS
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, G, T, S, K = 2, 4, 2, 3, 5, 16
CAN = [name for name in BACKENDS if name != "sdpa"]


def by_hand(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, allowed: Tensor, scale: float, cap: float
) -> Tensor:
    """softmax(cap · tanh(scale q·k / cap) + bias) V: the bias is not capped, nor is what the mask forbids."""
    output = torch.zeros(B, H, T, K, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(T):
                seen = [j for j in range(S) if allowed[i, j]]
                scores = [
                    cap * math.tanh(scale * float(query[b, h, i] @ key[b, h // 2, j]) / cap) + float(bias[0, h, i, j])
                    for j in seen
                ]
                total = sum(map(math.exp, scores))
                for j, score in zip(seen, scores, strict=True):
                    output[b, h, i] += math.exp(score) / total * value[b, h // 2, j]
    return output


@pytest.mark.parametrize("backend", CAN)
@pytest.mark.parametrize(("scale", "cap"), [(0.25, 1.5), (2.0, 0.3), (1.0, 50.0)])
def test_scores_are_capped_before_the_bias(backend: str, scale: float, cap: float) -> None:
    query = torch.randn(B, H, T, K, dtype=torch.float64)
    key, value = torch.randn(2, B, G, S, K, dtype=torch.float64)
    bias = 3 * torch.randn(1, H, T, S, dtype=torch.float64)
    rules = AttentionRules(AttentionMask(causal=True), DenseBias(bias), scale=scale, softcap=cap, need_weights=True)
    found = attend(query, key, value, rules, backend=backend)
    allowed = torch.ones(T, S).tril(S - T).bool()
    expected = by_hand(query, key, value, bias, allowed, scale, cap)
    torch.testing.assert_close(found.output, expected, rtol=1e-10, atol=1e-10)
    assert found.weights is not None
    torch.testing.assert_close(found.weights @ value.repeat_interleave(2, 1), expected, rtol=1e-10, atol=1e-10)


def test_it_is_the_references() -> None:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

    class Module:
        num_key_value_groups = H // G
        training = False

    query = torch.randn(B, H, T, K)
    key, value = torch.randn(2, B, G, S, K)
    expected, weights = eager_attention_forward(Module(), query, key, value, None, scaling=0.3, softcap=0.8)  # type: ignore[arg-type]
    found = attend(query, key, value, AttentionRules(scale=0.3, softcap=0.8, need_weights=True))
    torch.testing.assert_close(found.output.transpose(1, 2), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.weights, weights, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", CAN)
@torch.no_grad()
def test_the_variant_asks_for_it(backend: str, block: Callable[..., MultiHeadAttention]) -> None:
    module = block({"name": "softcap", "cap": 0.4}, backend)
    layout = PackedLayout.from_lengths([3, 4])
    for x, context in (
        (torch.randn(B, 6, 32, dtype=torch.float64), Context(AttentionMask(causal=True))),
        (torch.randn(7, 32, dtype=torch.float64), Context(layout=layout)),
    ):
        found = module(x, context).output
        built_in = MultiHeadAttention(32, 4, softcap=0.4, backend="eager").double()
        built_in.load_state_dict(module.state_dict())
        torch.testing.assert_close(found, built_in(x, context).output, rtol=1e-10, atol=1e-10)
        built_in.softcap = None
        assert (found - built_in(x, context).output).abs().max() > 1e-3


@torch.no_grad()
def test_the_variants_cap_goes_before_that_of_the_block(block: Callable[..., Any]) -> None:
    x = torch.randn(B, 6, 32, dtype=torch.float64)
    module = block("full", softcap=9.0)
    module.set_attention({"name": "softcap", "cap": 0.4})
    found = module(x, Context()).output
    module.set_attention("full")
    module.softcap = 0.4
    torch.testing.assert_close(found, module(x, Context()).output, rtol=1e-12, atol=1e-12)
