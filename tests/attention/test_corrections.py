"""Rows that correct softmax attention (lengths, values, a second query, other branches), token by token in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, Context
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, G, T, K = 2, 4, 2, 7, 8
Numbers = list[float]


@dataclass
class Token:
    """A query of one head, what it may see, and where it stands."""

    variant: Any
    head: int
    i: int
    query: Numbers
    x: Tensor  # (D)
    seen: list[int]
    keys: list[Numbers]
    values: list[Numbers]
    first: int

    def score(self, j: int, query: Numbers | None = None) -> float:
        return dot(self.query if query is None else query, self.keys[j]) * K**-0.5

    def mean(self, weights: dict[int, float]) -> Numbers:
        return [sum(weights[j] * self.values[j][c] for j in weights) for c in range(K)]


def dot(a: Numbers, b: Numbers) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(scores: dict[int, float]) -> dict[int, float]:
    total = sum(math.exp(s) for s in scores.values())
    return {j: math.exp(s) / total for j, s in scores.items()}


def plain(token: Token) -> dict[int, float]:
    return softmax({j: token.score(j) for j in token.seen})


def l2(token: Token) -> Numbers:
    c = float(token.variant.strength[token.head])
    distances = {
        j: -((1 - c) * -2 * dot(token.query, token.keys[j]) + c * gap(token.query, token.keys[j])) for j in token.seen
    }
    return token.mean(softmax({j: d * K**-0.5 / 2 for j, d in distances.items()}))


def gap(a: Numbers, b: Numbers) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def cosine(token: Token) -> Numbers:
    a, length = float(token.variant.power[token.head // 2]), math.exp(float(token.variant.log_length[token.head]))
    scores = {}
    for j in token.seen:
        lengths = math.sqrt(dot(token.query, token.query) * dot(token.keys[j], token.keys[j]))
        cos = dot(token.query, token.keys[j]) / lengths
        scores[j] = K**-0.5 * lengths ** (1 - a) * length**a * cos
    return token.mean(softmax(scores))


def laser(token: Token) -> Numbers:
    c, weights = float(token.variant.strength[token.head // 2].abs()), plain(token)
    return [
        math.log(sum(weights[j] * math.exp(c * token.values[j][n]) for j in token.seen)) / c for n in range(K)
    ]  # fmt: skip


def parallax(token: Token) -> Numbers:
    second, weights = (token.variant.second_query @ token.x).view(H, K)[token.head].tolist(), plain(token)
    along = {j: dot(second, token.keys[j]) for j in token.seen}
    expected = sum(weights[j] * along[j] for j in token.seen)
    mean = token.mean(weights)
    product = token.mean({j: weights[j] * along[j] for j in token.seen})
    return [mean[c] - (product[c] - expected * mean[c]) for c in range(K)]


def lolcats(token: Token) -> Numbers:
    near = [j for j in token.seen if abs(token.i - j) <= 1]
    largest = max((token.score(j) for j in near), default=0.0)
    maps, h = token.variant.map, token.head
    of_query = hedgehog(maps.query_map[h], token.query)
    c = math.exp(float(token.variant.log_factor[h]))
    kernel = {
        j: math.exp(token.score(j) - largest)
        if j in near
        else c * dot(of_query, hedgehog(maps.key_map[h], token.keys[j]))
        for j in token.seen
    }
    return token.mean({j: kernel[j] / sum(kernel.values()) for j in token.seen})


def hedgehog(weight: Tensor, x: Numbers) -> Numbers:
    mapped = [K**-0.25 * dot(row, x) for row in weight.tolist()]
    up, down = (softmax({n: sign * m for n, m in enumerate(mapped)}) for sign in (1, -1))
    return [*up.values(), *down.values()]


def native_sparse(token: Token) -> Numbers:
    blocks: dict[int, list[int]] = {}
    for j in token.seen:
        blocks.setdefault((j - token.first) // 2, []).append(j)
    summary = {
        b: [sum(token.keys[j][c] for j in members) / len(members) for c in range(K)] for b, members in blocks.items()
    }
    scores = {b: dot(token.query, key) * K**-0.5 for b, key in summary.items()}
    of_blocks = softmax(scores)
    own = (token.i - token.first) // 2
    best = sorted(blocks, key=lambda b: (b != own, -scores[b]))[:2]
    near = [j for j in token.seen if abs(token.i - j) <= 1]
    branches = [
        {j: of_blocks[b] / len(members) for b, members in blocks.items() for j in members},
        softmax({j: token.score(j) for b in best for j in blocks[b]}),
        softmax({j: token.score(j) for j in near}),
    ]
    gates = torch.sigmoid(token.variant.gate(token.x)).view(3, H)[:, token.head] * token.variant.strength[:, token.head]
    means = [token.mean(branch) for branch in branches]
    return [sum(float(g) * mean[c] for g, mean in zip(gates, means, strict=True)) for c in range(K)]


ROWS: dict[str, tuple[dict[str, Any], Callable[[Token], Numbers]]] = {
    "l2": ({}, l2),
    "cosine": ({"power": 0.7}, cosine),
    "laser": ({"strength": 1.0}, laser),
    "parallax": ({}, parallax),
    "lolcats": ({"window": 2}, lolcats),
    "native_sparse": ({"window": 2, "k": 2, "size": 2}, native_sparse),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ROWS)
@torch.no_grad()
def test_token_by_token(
    name: str, causal: bool, block: Callable[..., MultiHeadAttention], draw: Callable[..., Tensor]
) -> None:
    options, row = ROWS[name]
    module, x = block({"name": name, **options}, num_kv_heads=G), draw(B, T, H * K)
    module.output.weight.copy_(torch.eye(H * K))
    module.output.bias.zero_()
    real = torch.ones(B, T, dtype=torch.bool)
    real[1, :2] = False  # padding on the left
    found = module(x, Context(AttentionMask(real, causal=causal))).output
    query, key, value = (p(x).view(B, T, -1, K).tolist() for p in (module.query, module.key, module.value))
    for b in range(B):
        first = 2 * b
        for i in range(first, T):
            seen = [j for j in range(first, T) if j <= i or not causal]
            expected = [
                row(
                    Token(
                        module.variants[0],
                        h,
                        i,
                        query[b][i][h],
                        x[b, i],
                        seen,
                        [each[h // 2] for each in key[b]],
                        [each[h // 2] for each in value[b]],
                        first,
                    )
                )
                for h in range(H)
            ]
            torch.testing.assert_close(
                found[b, i], torch.tensor(expected, dtype=torch.float64).flatten(), rtol=1e-9, atol=1e-9
            )


@pytest.mark.parametrize("power", [0.0, 1.0])
@torch.no_grad()
def test_scores_by_angle_are_those_of_swin(power: float, draw: Callable[..., Tensor]) -> None:
    """1 / tau of Swin v2 is scale · L; its module has windows and a bias besides, so only its scores are compared."""
    module = MultiHeadAttention(H * K, H).double()
    module.set_attention({"name": "cosine", "power": power})
    query, key = draw(B, H, T, K), draw(B, H, T, K)
    tau = torch.rand(H, 1, 1, dtype=torch.float64) + 0.1
    module.variants[0].log_length.copy_(-(tau.flatten() * K**-0.5).log())
    new_query, new_key, _ = module.variants[0].project(query, key, key, Context())
    normalize = torch.nn.functional.normalize
    expected = normalize(query, dim=-1) @ normalize(key, dim=-1).mT / tau if power else query @ key.mT * K**-0.5
    torch.testing.assert_close(new_query @ new_key.mT * K**-0.5, expected, rtol=1e-10, atol=1e-10)
