"""Rotary positions against multiplication by complex numbers, written out pair by pair."""

from __future__ import annotations

import cmath
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, Context, LayerSizes, PackedLayout
from minitrans.attention.variants.rotary import Rotary
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, T, K = 2, 4, 5, 8
LAYOUTS = ("halves", "interleaved")
Make = Callable[..., Any]


def pairs(layout: str, width: int = K) -> list[tuple[int, int]]:
    """The columns that are turned together, and with pair i the frequency base^(-2i/K)."""
    half = width // 2
    return [(i, i + half) if layout == "halves" else (2 * i, 2 * i + 1) for i in range(half)]


def turned(vector: Tensor, position: int, layout: str, base: float) -> list[float]:
    found = [0.0] * len(vector)
    for i, (a, b) in enumerate(pairs(layout, len(vector))):
        number = complex(vector[a], vector[b]) * cmath.exp(1j * position * base ** (-2 * i / len(vector)))
        found[a], found[b] = number.real, number.imag
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("base", [10000.0, 50.0])
@pytest.mark.parametrize("packed", [False, True])
def test_queries_and_keys_are_turned_as_complex_numbers(layout: str, base: float, packed: bool, make: Make) -> None:
    rotary = make({"name": "rotary", "layout": layout, "base": base}, kv_heads=2)
    positions = torch.tensor([[0, 1, 2, 3, 700], [5, 4, 4, 0, 31]])
    query, key, value = torch.randn(3, B, H, T, K, dtype=torch.float64)
    key, value = key[:, :2], value[:, :2]
    if packed:
        together = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]  # (N, H|G, K)
        layout_of = PackedLayout.from_lengths([T, T])
        found = rotary.project(*together, Context(layout=layout_of, positions=positions.flatten()))
        found = [tensor.unflatten(0, (B, T)).transpose(1, 2) for tensor in found]
    else:
        found = rotary.project(query, key, value, Context(positions=positions))
    for before, after in zip((query, key), found[:2], strict=True):
        assert after.shape == before.shape
        for b in range(B):
            for h in range(before.shape[1]):
                for i in range(T):
                    expected = turned(before[b, h, i], int(positions[b, i]), layout, base)
                    torch.testing.assert_close(after[b, h, i].tolist(), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(found[2], value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_depend_on_the_distance_alone_and_lengths_stay(layout: str, make: Make) -> None:
    rotary = make({"name": "rotary", "layout": layout})
    query, key = torch.randn(2, 1, H, 1, K, dtype=torch.float64)

    def score(i: int, j: int) -> Tensor:
        q, _, _ = rotary.project(query, key, key, Context(positions=torch.tensor([[i]])))
        _, k, _ = rotary.project(query, key, key, Context(positions=torch.tensor([[j]])))
        torch.testing.assert_close(q.norm(dim=-1), query.norm(dim=-1), rtol=1e-12, atol=0)
        return (q * k).sum(-1)

    torch.testing.assert_close(score(3, 1), score(1003, 1001), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(score(7, 7), (query * key).sum(-1), rtol=1e-12, atol=1e-12)
    assert (score(3, 1) - score(1, 3)).abs().max() > 1e-2
    assert (score(3, 1) - score(4, 1)).abs().max() > 1e-2


def test_the_two_layouts_are_one_reordered(make: Make) -> None:
    halves, interleaved = (make({"name": "rotary", "layout": layout}) for layout in LAYOUTS)
    order = [column for pair in zip(range(K // 2), range(K // 2, K), strict=True) for column in pair]
    query = torch.randn(B, H, T, K, dtype=torch.float64)
    context = Context(positions=torch.arange(T).expand(B, -1))
    (one, _, _), (other, _, _) = (
        halves.project(query, query, query, context),
        interleaved.project(query[..., order], query, query, context),
    )
    torch.testing.assert_close(one[..., order], other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_the_references(layout: str, make: Make) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb
    from transformers.models.roformer.modeling_roformer import (
        RoFormerSelfAttention,
        RoFormerSinusoidalPositionalEmbedding,
    )

    rotary, query = make({"name": "rotary", "layout": layout}), torch.randn(B, H, T, K)
    positions = torch.arange(T).expand(B, -1)
    found, key, _ = rotary.project(query, query.flip(1), query, Context(positions=positions))
    if layout == "halves":
        config = LlamaConfig(hidden_size=H * K, num_attention_heads=H, rope_theta=10000.0)
        cos, sin = LlamaRotaryEmbedding(config)(query, positions)
        expected = apply_rotary_pos_emb(query, query.flip(1), cos, sin)
    else:
        table = RoFormerSinusoidalPositionalEmbedding(T, K)
        table.weight.data.copy_(table.create_weight())
        sinusoidal = table(torch.Size((B, T)))[None, None]
        expected = RoFormerSelfAttention.apply_rotary_position_embeddings(sinusoidal, query, query.flip(1))
    for ours, theirs in zip((found, key), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_far_positions_in_low_precision_are_rounded_once(make: Make) -> None:
    """angle = 100,000 in bfloat16 would be off by hundreds of radians."""
    rotary = make("rotary")
    query = torch.randn(1, H, 1, K, dtype=torch.bfloat16)
    context = Context(positions=torch.tensor([[99_991]]))
    found, _, _ = rotary.project(query, query, query, context)
    expected, _, _ = rotary.project(query.double(), query.double(), query.double(), context)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("backend", ["eager", "sdpa", "flex", "online_softmax", "triton"])
@torch.no_grad()
def test_positions_of_a_packed_batch_begin_anew_and_moved_texts_are_the_same(
    backend: str, block: Callable[..., MultiHeadAttention]
) -> None:
    module = block(["rotary"], backend)
    x = torch.randn(7, 32, dtype=torch.float64)
    layout = PackedLayout.from_lengths([3, 4])
    packed = module(x, Context(layout=layout, positions=layout.positions())).output
    for span, moved in ((slice(0, 3), 0), (slice(3, 7), 50)):
        length = span.stop - span.start
        alone = module(x[None, span], Context(positions=torch.arange(length)[None] + moved)).output[0]
        torch.testing.assert_close(packed[span], alone, rtol=1e-10, atol=1e-10)
    mask = AttentionMask(causal=True)
    turned_around = module(x[None], Context(mask, positions=torch.arange(7)[None].flip(1))).output
    straight = module(x[None], Context(mask, positions=torch.arange(7)[None])).output
    assert (turned_around - straight).abs().max() > 1e-3


def test_without_positions_it_says_what_is_missing(make: Make) -> None:
    x = torch.randn(1, H, T, K)
    with pytest.raises(
        ValueError, match=r"rotary attention needs to know where the tokens stand: Context\(positions=...\)"
    ):
        make("rotary").project(x, x, x, Context())


def test_odd_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="the head width must be even, got 7"):
        Rotary(LayerSizes(14, 2, 2, 7))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_fraction_turns_the_first_columns_as_a_head_of_their_own(layout: str, make: Make) -> None:
    part = make({"name": "rotary", "layout": layout, "fraction": 0.5})
    alone = Rotary(LayerSizes(H * K // 2, H, H, K // 2), layout=layout)
    query, key, value = torch.randn(3, B, H, T, K, dtype=torch.float64)
    context = Context(positions=torch.arange(T).expand(B, T))
    found = part.project(query, key, value, context)
    expected = alone.project(query[..., : K // 2], key[..., : K // 2], value, context)
    for after, before, turned in zip(found[:2], (query, key), expected[:2], strict=True):
        assert torch.equal(after, torch.cat([turned, before[..., K // 2 :]], dim=-1))
    assert torch.equal(found[2], value)
    with pytest.raises(ValueError, match=f"the head width must be even, got {K} times the fraction 0.125"):
        make({"name": "rotary", "fraction": 0.125})
