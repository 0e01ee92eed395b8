"""Every public layer once, with sizes that are pairwise different, so that a swapped axis cannot pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import minitrans.layers
from minitrans.attention.context import Context
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.layers import (
    block,
    embeddings,
    feed_forward,
    fourier,
    half_precision,
    heads,
    multi_head_attention,
    norms,
    position_bias,
    positions,
    stack,
)

# B=2, T=3, S=5, H=7, K=8, D=56, F=11, V=13, C=4, N=9 tokens, 17 positions, 6 types
B, T, S, H, K, D, F, V, C, N = 2, 3, 5, 7, 8, 56, 11, 13, 4, 9
CAUSAL = Context(mask=AttentionMask(causal=True))
PACKED = Context(mask=AttentionMask(causal=True), layout=PackedLayout.from_lengths([5, 3, 1]))


def memory() -> Context:
    return Context(mask=AttentionMask(causal=True), memory=torch.randn(B, S, D), need_weights=True)


def make_block(*, crosses: bool = False, kind: type[block.Block] = block.Block) -> block.Block:
    return kind(
        multi_head_attention.MultiHeadAttention(D, H),
        feed_forward.FeedForward(D, F),
        [norms.LayerNorm(D) for _ in range(3)],
        cross_attention=multi_head_attention.CrossAttention(D, H) if crosses else None,
    )


def ids(*shape: int, below: int = V) -> Tensor:
    return torch.randint(below, shape)


Case = tuple[Callable[[], nn.Module], Callable[[Any], Any], tuple[int, ...]]
CASES: dict[str, Case] = {
    "LayerNorm": (lambda: norms.LayerNorm(D), lambda m: m(torch.randn(B, T, D)), (B, T, D)),
    "WideLinear": (lambda: half_precision.WideLinear(D, F), lambda m: m(torch.randn(B, T, D)), (B, T, F)),
    "RMSNorm": (lambda: norms.RMSNorm(D), lambda m: m(torch.randn(B, T, D)), (B, T, D)),
    "FeedForward": (lambda: feed_forward.FeedForward(D, F), lambda m: m(torch.randn(B, T, D)), (B, T, D)),
    "FeedForward gated": (
        lambda: feed_forward.FeedForward(D, F, gated=True), lambda m: m(torch.randn(N, D)), (N, D)
    ),
    "SinusoidalPositions": (
        lambda: positions.SinusoidalPositions(17, D), lambda m: m(ids(B, T, below=17)), (B, T, D)
    ),
    "Embeddings": (
        lambda: embeddings.Embeddings(V, D, max_positions=17, type_vocab_size=6),
        lambda m: m(ids(B, T), ids(B, T, below=17), ids(B, T, below=6)),
        (B, T, D),
    ),
    "MultiHeadAttention": (
        lambda: multi_head_attention.MultiHeadAttention(D, H), lambda m: m(torch.randn(B, T, D), CAUSAL).output, (B, T, D)
    ),
    "MultiHeadAttention weights": (
        lambda: multi_head_attention.MultiHeadAttention(D, H, num_kv_heads=1, head_width=9),
        lambda m: m(torch.randn(B, T, D), Context(need_weights=True)).weights,
        (B, H, T, T),
    ),
    "MultiHeadAttention packed": (
        lambda: multi_head_attention.MultiHeadAttention(D, H), lambda m: m(torch.randn(N, D), PACKED).output, (N, D)
    ),
    "CrossAttention": (
        lambda: multi_head_attention.CrossAttention(D, H), lambda m: m(torch.randn(B, T, D), memory()).output, (B, T, D)
    ),
    "CrossAttention weights": (
        lambda: multi_head_attention.CrossAttention(D, H), lambda m: m(torch.randn(B, T, D), memory()).weights, (B, H, T, S)
    ),
    "Block": (lambda: make_block(), lambda m: m(torch.randn(B, T, D), CAUSAL), (B, T, D)),
    "ClampedBlock": (
        lambda: make_block(kind=half_precision.ClampedBlock), lambda m: m(torch.randn(B, T, D), CAUSAL), (B, T, D)
    ),
    "ClampedEnd": (
        lambda: make_block(kind=half_precision.ClampedEnd), lambda m: m(torch.randn(B, T, D), CAUSAL), (B, T, D)
    ),
    "Block packed": (lambda: make_block(), lambda m: m(torch.randn(N, D), PACKED), (N, D)),
    "Block crossing": (lambda: make_block(crosses=True), lambda m: m(torch.randn(B, T, D), memory()), (B, T, D)),
    "Stack": (
        lambda: stack.Stack([make_block(), make_block()], norms.LayerNorm(D), order=[0, 1, 0]),
        lambda m: torch.stack(m(torch.randn(B, T, D), CAUSAL, keep_states=True).hidden_states),
        (4, B, T, D),
    ),
    "BucketBias": (
        lambda: position_bias.BucketBias(16, H), lambda m: m.bias().to_dense(torch.randn(B, H, T, K), torch.randn(B, H, S, K), 1.0),
        (1, H, T, S),
    ),
    "DistanceEmbedding": (
        lambda: position_bias.DistanceEmbedding(9, K),
        lambda m: m.bias().to_dense(torch.randn(B, H, T, K), torch.randn(B, H, S, K), 1.0),
        (B, H, T, S),
    ),
    "OffsetRMSNorm": (lambda: norms.OffsetRMSNorm(D), lambda m: m(torch.randn(B, T, D)), (B, T, D)),
    "OffsetPositions": (lambda: positions.OffsetPositions(17, D), lambda m: m(ids(B, T, below=17)), (B, T, D)),
    "TokenEmbeddings": (
        lambda: embeddings.TokenEmbeddings(V, D, positions=positions.OffsetPositions(17, D), norm=norms.LayerNorm(D)),
        lambda m: m(ids(B, T), ids(B, T, below=17), None), (B, T, D),
    ),
    "FourierMixer": (lambda: fourier.FourierMixer(), lambda m: m(torch.randn(B, T, D), Context()).output, (B, T, D)),
    "PredictionHead": (
        lambda: heads.PredictionHead(D, act="gelu", eps=1e-5, table_width=F), lambda m: m(torch.randn(B, T, D)), (B, T, F)
    ),
    "LanguageModelHead": (
        lambda: heads.LanguageModelHead(D, V, act="gelu", eps=1e-5), lambda m: m(torch.randn(B, T, D)), (B, T, V)
    ),
    "ClassificationHead": (
        lambda: heads.ClassificationHead(D, C, dropout=0.1), lambda m: m(torch.randn(B, T, D)), (B, C)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_shape_and_gradient(name: str) -> None:
    build, call, shape = CASES[name]
    module = build()
    output = call(module)
    assert output.shape == shape
    assert output.dtype == torch.float32
    assert output.isfinite().all()
    if output.requires_grad:
        output.square().sum().backward()
        assert any(parameter.grad is not None for parameter in module.parameters())


def test_every_public_layer_is_here() -> None:
    found = set()
    for path in Path(minitrans.layers.__file__).parent.glob("[a-z]*.py"):
        module = import_module(f"minitrans.layers.{path.stem}")
        for name, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, nn.Module) and value.__module__ == module.__name__ and not name.startswith("_"):
                found.add(name)
    assert found == {name.split()[0] for name in CASES}
