"""What turns scores into weights, row by row in plain Python, and modules of transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, AttentionRules, CallSizes, Context, DenseBias, PackedLayout
from minitrans.attention.specs import build_variants
from minitrans.attention.variant import LayerSizes
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, G, T, S, K = 2, 4, 2, 4, 7, 8
Make, Draw = Callable[..., Any], Callable[..., Tensor]


def by_bisection(scores: list[float], power: float, scale: float) -> list[float]:
    """relu(scale s - tau)^power, with tau found by halving until the sum is one."""
    low, high = min(scores) * scale - 2, max(scores) * scale
    for _ in range(200):
        tau = (low + high) / 2
        total = sum(max(scale * s - tau, 0.0) ** power for s in scores)
        low, high = (tau, high) if total > 1 else (low, tau)
    return [max(scale * s - tau, 0.0) ** power for s in scores]


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def top_two(scores: list[float]) -> list[float]:
    border = sorted(scores)[-2:][0]
    return softmax([s if s >= border else -math.inf for s in scores])


def softpick(scores: list[float]) -> list[float]:
    below = sum(abs(math.exp(s) - 1) for s in scores)
    return [max(math.exp(s) - 1, 0.0) / below for s in scores]


def squares(scores: list[float]) -> list[float]:
    total = sum(max(s, 0.0) ** 2 for s in scores)
    return [max(s, 0.0) ** 2 / total if total else 0.0 for s in scores]


def signed(scores: list[float]) -> list[float]:
    return [math.copysign(p, s) for p, s in zip(softmax([abs(s) for s in scores]), scores, strict=True)]


# name -> (options, the weights of a row from the scores that are allowed)
ROWS: dict[str, tuple[dict[str, Any], Callable[[list[float]], list[float]]]] = {
    "sparsemax": ({}, lambda s: by_bisection(s, 1, 1.0)),
    "entmax15": ({}, lambda s: by_bisection(s, 2, 0.5)),
    "top_k": ({"k": 2}, top_two),
    "softpick": ({}, softpick),
    "relu_squared": ({}, squares),
    "cog": ({}, signed),
    "scalable_softmax": (
        {"initial": 0.5, "reference": None},
        lambda s: softmax([0.5 * math.log(len(s)) * x for x in s]),
    ),
    "sigmoid": ({"bias": "logsumexp"}, lambda s: [p / (1 + p) for p in softmax(s)]),
}


@pytest.mark.parametrize("name", ROWS)
@torch.no_grad()
def test_row_by_row(name: str, draw: Draw) -> None:
    options, row = ROWS[name]
    (variant,) = build_variants({"name": name, **options}, LayerSizes(H * K, H, G, K))
    query, key, value, bias = draw(B, H, T, K), draw(B, G, S, K), draw(B, G, S, K), draw(B, H, T, S)
    allowed = torch.rand(B, 1, T, S) > 0.4
    allowed[1, 0, 2] = False
    rules = AttentionRules(AttentionMask(dense=allowed), DenseBias(bias), need_weights=True)
    found = variant.double().compute(query, key, value, rules)
    scores = query @ key.repeat_interleave(2, 1).mT * K**-0.5 + bias
    expected = torch.zeros(B, H, T, S, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(T):
                seen = allowed[b, 0, i].nonzero().flatten()
                if len(seen):
                    expected[b, h, i, seen] = torch.tensor(row(scores[b, h, i, seen].tolist()), dtype=torch.float64)
    torch.testing.assert_close(found.weights, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.output, expected @ value.repeat_interleave(2, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_sticks_are_broken_key_by_key(causal: bool, make: Make, draw: Draw) -> None:
    variant = make("stick_breaking")
    query, key, real = draw(1, H, 5, K), draw(1, H, 5, K), torch.tensor([[True, True, False, True, True]])
    mask = AttentionMask(real, causal=causal)
    found = variant.compute(query, key, key, AttentionRules(mask, need_weights=True)).weights
    beta = torch.sigmoid(query @ key.mT * K**-0.5)
    for h in range(H):
        for i in range(5):
            left = 1.0
            for j in [i, *(i + side * d for d in range(1, 5) for side in (-1, 1))]:
                if 0 <= j < 5 and real[0, j] and (j <= i or not causal):
                    torch.testing.assert_close(found[0, h, i, j], beta[0, h, i, j] * left, rtol=1e-10, atol=1e-12)
                    left = left * (1 - beta[0, h, i, j])
            torch.testing.assert_close(
                1 - found[0, h, i].sum(), torch.as_tensor(left, dtype=torch.float64), rtol=1e-9, atol=1e-9
            )


@torch.no_grad()
def test_selected_against_step_by_step(make: Make, draw: Draw) -> None:
    (variant,) = build_variants("selective", LayerSizes(H * K, H, H, K))
    n, pads = 6, 2
    query, key = 3 * draw(1, H, n, K), 3 * draw(1, H, n, K)
    mask = AttentionMask(torch.arange(n)[None] >= pads, causal=True)
    found = variant.compute(query, key, key, AttentionRules(mask, need_weights=True)).weights
    scores = query @ key.mT * K**-0.5
    for i in range(pads, n):
        off = [
            sum(max(float(scores[0, 0, row, j]), 0.0) for row in range(j + 1, i)) if j > pads else 0.0
            for j in range(pads, i + 1)
        ]
        for h in range(H):
            expected = softmax([float(scores[0, h, i, j]) - off[j - pads] for j in range(pads, i + 1)])
            torch.testing.assert_close(found[0, h, i, pads : i + 1].tolist(), expected, rtol=1e-9, atol=1e-9)
    assert variant.restrict(AttentionMask(), None, CallSizes(1, n, n, H, torch.device("cpu")))[0].causal


@pytest.mark.parametrize("packed", [False, True])
@torch.no_grad()
def test_gates_are_forgotten_one_by_one(packed: bool, make: Make, draw: Draw) -> None:
    variant, n = make({"name": "forgetting", "strength": 0.7}), 5
    x = draw(2, n, H * K)
    gates = variant.strength * torch.sigmoid(variant.gate(x)).log()  # (2, n, 2 H)
    layout = PackedLayout.from_lengths([n, n]) if packed else None
    given = x.flatten(0, 1) if packed else x
    _, bias = variant.restrict(AttentionMask(), None, CallSizes(2, n, n, H, torch.device("cpu"), layout, given))
    values = bias.values[0] if packed else bias.values
    for b in range(2):
        for h in range(H):
            for i in range(n):
                for j in range(n):
                    left = sum(float(gates[b, at, h]) for at in range(j + 1, i + 1))
                    right = sum(float(gates[b, at, H + h]) for at in range(i, j))
                    found = values[h, b * n + i, b * n + j] if packed else values[b, h, i, j]
                    torch.testing.assert_close(float(found), float(left + right), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_constant_gate_is_alibi(make: Make, draw: Draw) -> None:
    (variant,) = build_variants({"name": "forgetting", "strength": 2.0}, LayerSizes(H * K, H, H, K))
    x = draw(1, 5, H * K)
    _, bias = variant.double().restrict(AttentionMask(), None, CallSizes(1, 5, 5, H, torch.device("cpu"), None, x))
    gap = (torch.arange(5)[:, None] - torch.arange(5)).abs()
    slope = 2 * math.log(2)
    torch.testing.assert_close(bias.values[0, 0], -slope * gap.double(), rtol=1e-12, atol=1e-12)


def gated(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-(x @ weight.T + bias)))


@pytest.mark.parametrize("by_head", [False, True])
@torch.no_grad()
def test_gates_of_the_output(by_head: bool, block: Callable[..., MultiHeadAttention], draw: Draw) -> None:
    module = block({"name": "gated_output", "by_head": by_head, "factor": 1.5})
    x, gate = draw(B, T, H * K), module.variants[0].gate
    module.output.weight.copy_(torch.eye(H * K))
    module.output.bias.zero_()
    found = module(x, Context(need_weights=True))
    module.set_attention("full")
    plain = module(x, Context(need_weights=True))
    gates = 1.5 * gated(x, gate.weight, gate.bias)
    factors = gates.repeat_interleave(K, -1) if by_head else gates
    torch.testing.assert_close(found.output, plain.output * factors, rtol=1e-10, atol=1e-10)
    expected = plain.weights * (gates.mT[..., None] if by_head else 1)
    torch.testing.assert_close(found.weights, expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_differential_takes_off_what_the_partner_sees(block: Callable[..., MultiHeadAttention], draw: Draw) -> None:
    module = block({"name": "differential", "strength": 0.3})
    x, gate = draw(B, T, H * K), module.variants[0].gate
    strength = module.variants[0].strength
    found = module(x, Context(need_weights=True)).weights
    module.set_attention("full")
    plain = module(x, Context(need_weights=True)).weights
    share = strength * gated(x, gate.weight, gate.bias)
    for h, partner in enumerate((1, 0, 3, 2)):
        torch.testing.assert_close(
            found[:, h], plain[:, h] - share[..., h, None] * plain[:, partner], rtol=1e-10, atol=1e-10
        )


@pytest.mark.parametrize("kv_heads", [4, 2])
@torch.no_grad()
def test_differential_v1_is_that_of_transformers(
    kv_heads: int, block: Callable[..., MultiHeadAttention], draw: Draw
) -> None:
    from transformers import DiffLlamaConfig
    from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention

    config = DiffLlamaConfig(
        hidden_size=H * K,
        num_attention_heads=H,
        num_key_value_heads=kv_heads,
        attention_dropout=0.0,
        attention_bias=False,
    )
    config._attn_implementation = "eager"
    theirs = DiffLlamaAttention(config, layer_idx=2).double().eval()
    ours = MultiHeadAttention(H * K, H, num_kv_heads=kv_heads, bias=False).double()
    ours.set_attention({"name": "differential_v1", "eps": config.rms_norm_eps}, layer=2)
    for mine, other in (
        (ours.query, theirs.q_proj),
        (ours.key, theirs.k_proj),
        (ours.value, theirs.v_proj),
        (ours.output, theirs.o_proj),
    ):
        mine.weight.copy_(other.weight)
    for name, parameter in ours.variants[0].named_parameters():
        parameter.copy_(theirs.get_parameter(name).normal_())
    x = draw(B, T, H * K)
    none = (
        torch.ones(1, T, K, dtype=torch.float64),
        torch.zeros(1, T, K, dtype=torch.float64),
    )  # cos 1 and sin 0: no rotation
    causal = torch.full((T, T), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    expected = theirs(x, position_embeddings=none, attention_mask=causal)[0]
    found = ours(x, Context(AttentionMask(causal=True))).output
    # their softmax and lambda are float32 whatever the model is: two roundings of 6e-8, on outputs of a few units
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
