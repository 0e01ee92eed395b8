"""Encoder and decoder blocks against figure 1, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.attention.bias import DenseBias
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.layers.cache import KeyValueCache, LayerCache
from minitrans.layers.decoder_block import DecoderBlock
from minitrans.layers.encoder_block import EncoderBlock
from minitrans.layers.multi_head_attention import MultiHeadAttention

Error = Callable[[Tensor, Tensor], float]
Randomized = Callable[[nn.Module], nn.Module]

# pairwise different: B=2, T=3, S=5, H=7, K=8, D=56, F=11
B, T, S, H, D, F_WIDTH = 2, 3, 5, 7, 56, 11
EPS = 0.2  # large, so that one that is not handed on shows
CAUSAL = AttentionMask(causal=True)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def make(randomized: Randomized, kind: type[EncoderBlock], **options: Any) -> Any:
    block = randomized(kind(D, H, F_WIDTH, eps=EPS, **options))
    for parameter in block.parameters():
        parameter.data *= 0.4
    return block


def attend(module: MultiHeadAttention, x: Tensor, source: Tensor, mask: AttentionMask) -> Tensor:
    """softmax(Q Kᵀ / √K) V, from the parameters; the mask is the one thing taken from the code under test."""
    query, key, value = (
        projection(tokens).unflatten(-1, (H, -1)).transpose(1, 2)
        for projection, tokens in ((module.query, x), (module.key, source), (module.value, source))
    )
    scores = query @ key.mT / (D / H) ** 0.5
    allowed = mask.to_dense(x.shape[1], source.shape[1], x.device)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    output: Tensor = module.output((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
    return output


def figure_1(
    block: Any, x: Tensor, mask: AttentionMask, memory: Tensor | None, memory_mask: AttentionMask, norm_first: bool
) -> Tensor:
    def norm(name: str, y: Tensor) -> Tensor:
        module = getattr(block, f"{name}_LayerNorm")
        centred = y - y.mean(-1, keepdim=True)
        normed: Tensor = module.weight * centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt() + module.bias
        return normed

    def add_and_norm(name: str, y: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return y + sublayer(norm(name, y)) if norm_first else norm(name, y + sublayer(y))

    x = add_and_norm("attention", x, lambda y: attend(block.attention, y, y, mask))
    if memory is not None:
        source = memory
        x = add_and_norm("cross_attention", x, lambda y: attend(block.cross_attention, y, source, memory_mask))
    feed = block.feed_forward
    return add_and_norm("feed_forward", x, lambda y: feed.down(F.gelu(feed.up(y))))


def compare(got: Tensor, expected: Tensor, leaves: list[Tensor], error: Error) -> None:
    assert error(got, expected) <= 1e-12
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves, upstream)
    largest = max(gradient.abs().max() for gradient in wanted)
    for one, other in zip(torch.autograd.grad(got, leaves, upstream), wanted, strict=True):
        assert (one - other).abs().max() <= 1e-12 * largest


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_encoder_block(norm_first: bool, randomized: Randomized, error: Error) -> None:
    block = make(randomized, EncoderBlock, norm_first=norm_first)
    x = random(B, S, D)
    mask = AttentionMask(key_padding=torch.tensor([[True] * 5, [False, True, True, True, False]]))
    expected = figure_1(block, x, mask, None, mask, norm_first)
    compare(block(x, mask=mask).output, expected, [x, *block.parameters()], error)


@pytest.mark.parametrize("with_memory", [True, False])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_decoder_block(norm_first: bool, with_memory: bool, randomized: Randomized, error: Error) -> None:
    block = make(randomized, DecoderBlock, norm_first=norm_first, cross_attention=with_memory)
    x = random(B, T, D)
    memory = random(B, S, D) if with_memory else None
    memory_mask = AttentionMask(key_padding=torch.tensor([[True] * 5, [True, True, True, False, False]]))
    got = block(x, mask=CAUSAL, memory=memory, memory_mask=memory_mask)
    expected = figure_1(block, x, CAUSAL, memory, memory_mask, norm_first)
    leaves = [x, *block.parameters()] + ([] if memory is None else [memory])
    compare(got.output, expected, leaves, error)


def test_without_its_memory_a_decoder_block_skips_cross_attention(randomized: Randomized, error: Error) -> None:
    block = make(randomized, DecoderBlock)
    x = random(B, T, D)
    out = block(x, mask=CAUSAL)
    assert error(out.output, figure_1(block, x, CAUSAL, None, CAUSAL, False)) <= 1e-12
    assert out.cross_weights is None
    assert out.cache.cross_attention is None


def test_a_memory_needs_cross_attention(randomized: Randomized) -> None:
    block = make(randomized, DecoderBlock, cross_attention=False)
    with pytest.raises(ValueError, match="memory was given to a block without cross-attention; build it with"):
        block(random(B, T, D), mask=CAUSAL, memory=random(B, S, D))


@pytest.mark.parametrize(
    "options", [{}, {"norm_first": True}, {"relative_positions": 9, "relative_with_key": True}, {"gated": True}]
)
def test_cache_step_by_step_equals_all_at_once(options: Any, randomized: Randomized, error: Error) -> None:
    block = make(randomized, DecoderBlock, **options)
    x, memory = random(B, 6, D), random(B, S, D)
    memory_mask = AttentionMask(key_padding=torch.tensor([[True] * 5, [False, False, True, True, True]]))
    whole = block(x, mask=CAUSAL, memory=memory, memory_mask=memory_mask).output
    past: LayerCache | None = None
    steps = []
    for part in x.split_with_sizes([2, 1, 3], dim=1):
        step = block(part, mask=CAUSAL, memory=memory, memory_mask=memory_mask, past=past)
        past = step.cache
        steps.append(step.output)
        memory = torch.full_like(memory, torch.nan)  # after the first step the cache has what is needed of it
    assert error(torch.cat(steps, dim=1), whole) <= 1e-12
    assert past is not None
    assert KeyValueCache((past,)).get_seq_length() == 6
    assert past.cross_attention is not None
    assert past.cross_attention.key.shape == (B, H, S, D // H)
    assert KeyValueCache(()).get_seq_length() == 0


@pytest.mark.parametrize("kind", [EncoderBlock, DecoderBlock])
def test_packed_equals_padded(kind: type[EncoderBlock], randomized: Randomized, error: Error) -> None:
    options = {"cross_attention": False} if kind is DecoderBlock else {}
    block = make(randomized, kind, **options)
    lengths = [4, 1, 3]
    padded = random(3, 4, D)
    real = torch.arange(4) < torch.tensor(lengths)[:, None]
    got = block(padded[real], mask=CAUSAL, layout=PackedLayout.from_lengths(lengths)).output
    expected = block(padded, mask=AttentionMask(causal=True, key_padding=real)).output[real]
    assert error(got, expected) <= 1e-12


def test_hands_mask_bias_heads_and_weights_to_attention(randomized: Randomized, error: Error) -> None:
    block = make(randomized, DecoderBlock)
    x, memory = random(B, T, D), random(B, S, D)
    factors = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    bias = DenseBias(random(1, H, T, T))
    out = block(x, mask=CAUSAL, memory=memory, bias=bias, head_mask=factors, need_weights=True)
    expected = block.attention(x, mask=CAUSAL, bias=bias, head_mask=factors, need_weights=True)
    assert error(out.weights, expected.weights) <= 1e-15
    assert out.weights.shape == (B, H, T, T)
    assert out.cross_weights.shape == (B, H, T, S)
    assert error(out.cross_weights.sum(-1), factors[:, None].expand(B, H, T)) <= 1e-14
    plain = block(x, mask=CAUSAL, memory=memory)
    assert (plain.weights, plain.cross_weights) == (None, None)
    assert error(plain.output, out.output) > 1e-3


@pytest.mark.parametrize(
    ("kind", "sublayers"), [(EncoderBlock, 2), (DecoderBlock, 3)], ids=["EncoderBlock", "DecoderBlock"]
)
def test_dropout_is_on_every_sublayer(kind: type[EncoderBlock], sublayers: int, randomized: Randomized) -> None:
    block = make(randomized, kind, dropout=0.3, attention_dropout=0.2)
    calls: list[Tensor] = []
    for dropout in (block.dropout, block.feed_forward_dropout):
        dropout.register_forward_hook(lambda module, inputs, output: calls.append(output))
    given = {"memory": random(B, S, D)} if kind is DecoderBlock else {}
    block(random(B, T, D), mask=CAUSAL, **given)
    assert len(calls) == sublayers
    assert all(0.1 < (output == 0).double().mean() < 0.5 for output in calls)
    attentions = [module for module in block.modules() if isinstance(module, MultiHeadAttention)]
    assert [module.dropout_p for module in attentions] == [0.2] * (sublayers - 1)


def test_options_reach_the_parts() -> None:
    block = DecoderBlock(D, H, F_WIDTH, act="silu", gated=True, eps=1e-12, attention={"name": "sliding_window", "window": 2},
                         backend="eager", relative_positions=4)  # fmt: skip
    assert block.feed_forward.gate is not None
    assert block.feed_forward.act is F.silu
    assert block.attention.attention.name == "sliding_window"
    assert block.cross_attention is not None
    assert block.cross_attention.attention.name == "full"
    assert block.cross_attention.backend == block.attention.backend == "eager"
    assert block.cross_attention.distance_embedding is None  # relative positions are those of self-attention
    assert {norm.eps for norm in (block.attention_LayerNorm, block.cross_attention_LayerNorm) if norm} == {1e-12}
    assert block.feed_forward_LayerNorm.eps == 1e-12
    assert not block.attention.relative_with_key
    assert EncoderBlock(D, H, F_WIDTH, relative_positions=4, relative_with_key=True).attention.relative_with_key


LINEARS = ("query", "key", "value", "output")
ENCODER = [
    *(f"attention.{name}.{kind}" for name in LINEARS for kind in ("weight", "bias")),
    "attention_LayerNorm.weight", "attention_LayerNorm.bias",
    "feed_forward.up.weight", "feed_forward.up.bias", "feed_forward.down.weight", "feed_forward.down.bias",
    "feed_forward_LayerNorm.weight", "feed_forward_LayerNorm.bias",
]  # fmt: skip
CROSS = [
    *(f"cross_attention.{name}.{kind}" for name in LINEARS for kind in ("weight", "bias")),
    "cross_attention_LayerNorm.weight", "cross_attention_LayerNorm.bias",
]  # fmt: skip


def test_parameter_names_are_public() -> None:
    assert list(EncoderBlock(8, 2, 5).state_dict()) == ENCODER
    assert list(EncoderBlock(8, 2, 5, norm_first=True).state_dict()) == ENCODER
    assert list(DecoderBlock(8, 2, 5, cross_attention=False).state_dict()) == ENCODER
    assert sorted(DecoderBlock(8, 2, 5).state_dict()) == sorted(ENCODER + CROSS)
    gate = {"feed_forward.gate.weight", "feed_forward.gate.bias"}
    assert set(EncoderBlock(8, 2, 5, gated=True).state_dict()) == {*ENCODER, *gate}
    table = {"attention.distance_embedding.weight"}
    assert set(DecoderBlock(8, 2, 5, relative_positions=3).state_dict()) == {*ENCODER, *CROSS, *table}
