"""Query-key normalisation, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minitrans.attention import Context

B, H, G, T, K = 2, 4, 2, 3, 8
Make, Draw = Callable[..., Any], Callable[..., Tensor]


def test_every_row_is_divided_by_its_root_mean_square(make: Make, draw: Draw) -> None:
    variant = make({"name": "qk_norm", "eps": 0.25}, kv_heads=G)
    query, key, value = (draw(B, heads, T, K).detach() for heads in (H, G, G))
    variant.requires_grad_(False)
    found_query, found_key, found_value = variant.project(query, key, value, Context())
    for given, found, weight in ((query, found_query, variant.query_weight), (key, found_key, variant.key_weight)):
        assert found.shape == given.shape
        for row, expected in zip(given.reshape(-1, K), found.reshape(-1, K), strict=True):
            mean = sum(float(x) ** 2 for x in row) / K
            by_hand = [float(w) * float(x) / (mean + 0.25) ** 0.5 for w, x in zip(weight, row, strict=True)]
            torch.testing.assert_close(expected.tolist(), by_hand, rtol=1e-12, atol=1e-12)
    assert found_value is value
    assert (variant.query_weight - variant.key_weight).abs().max() > 0.1


def test_a_packed_batch_has_the_same_rows(make: Make, draw: Draw) -> None:
    variant = make("qk_norm", kv_heads=G)
    query, key = draw(B, H, T, K), draw(B, G, T, K)
    padded = variant.project(query, key, key, Context())
    packed = variant.project(*(tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, key)), Context())
    for one, other in zip(padded, packed, strict=True):
        assert torch.equal(one.transpose(1, 2).flatten(0, 1), other)


def test_scores_cannot_grow_with_the_lengths(make: Make, draw: Draw) -> None:
    variant = make({"name": "qk_norm", "eps": 0.0})
    query, key = draw(B, H, T, K), draw(B, H, T, K)
    one = variant.project(query, key, key, Context())
    other = variant.project(1000 * query, key / 7, key, Context())
    torch.testing.assert_close(one[0], other[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one[1], other[1], rtol=1e-12, atol=1e-12)


def test_low_precision_squares_in_float32(make: Make) -> None:
    """2,000 squared is no float16."""
    variant = make({"name": "qk_norm", "eps": 0.0}).half()
    query = torch.full((1, H, 1, K), 2000.0, dtype=torch.float16)
    found, _, _ = variant.project(query, query, query, Context())
    assert found.dtype == torch.float16
    torch.testing.assert_close(found[0, 0, 0], variant.query_weight.detach(), rtol=1e-3, atol=0)


def test_gradients(make: Make, draw: Draw) -> None:
    variant = make("qk_norm")
    inputs = (draw(1, H, 2, K), draw(1, H, 2, K), *variant.parameters())
    assert torch.autograd.gradcheck(lambda q, k, *_: variant.project(q, k, k, Context())[:2], inputs, fast_mode=True)


def test_it_is_qwen3s(make: Make) -> None:
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

    variant = make({"name": "qk_norm", "eps": 1e-6}).float()
    query, key = torch.randn(2, B, H, T, K)
    found = variant.project(query, key, key, Context())
    for given, ours, weight in ((query, found[0], variant.query_weight), (key, found[1], variant.key_weight)):
        reference = Qwen3RMSNorm(K, 1e-6)
        reference.weight.data.copy_(weight.data)
        torch.testing.assert_close(ours, reference(given), rtol=1e-6, atol=1e-6)
