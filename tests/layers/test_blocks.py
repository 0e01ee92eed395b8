"""Encoder and decoder blocks against figure 1, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minitrans.attention.bias import DenseBias
from minitrans.attention.context import Context, Probabilities
from minitrans.attention.layout import PackedLayout
from minitrans.attention.mask import AttentionMask
from minitrans.layers.block import Block
from minitrans.layers.cache import Cache
from minitrans.layers.feed_forward import FeedForward
from minitrans.layers.multi_head_attention import AttentionOutput, CrossAttention, MultiHeadAttention
from minitrans.layers.norms import LayerNorm
from minitrans.layers.position_bias import DistanceEmbedding
from minitrans.layers.stack import Stack

Error = Callable[[Tensor, Tensor], float]
Randomized = Callable[[nn.Module], nn.Module]

# pairwise different: B=2, T=3, S=5, H=7, K=8, D=56, F=11
B, T, S, H, D, F_WIDTH = 2, 3, 5, 7, 56, 11
EPS = 0.2  # large, so that one that is not handed on shows
CAUSAL = AttentionMask(causal=True)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def build(
    width: int, heads: int, hidden: int, *, crosses: bool = False, relative: int = 0, gated: bool = False,
    attention_dropout: float = 0.0, **options: Any,
) -> Block:  # fmt: skip
    """A block as a family would assemble it."""
    distances = DistanceEmbedding(relative, width // heads, with_key=True) if relative else None
    return Block(
        MultiHeadAttention(width, heads, dropout=attention_dropout, distance_embedding=distances),
        FeedForward(width, hidden, gated=gated),
        [LayerNorm(width, EPS) for _ in range(3 if crosses else 2)],
        cross_attention=CrossAttention(width, heads, dropout=attention_dropout) if crosses else None,
        **options,
    )


def make(randomized: Randomized, **options: Any) -> Any:
    block = randomized(build(D, H, F_WIDTH, **options))
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
    block = make(randomized, norm_first=norm_first)
    x = random(B, S, D)
    mask = AttentionMask(key_padding=torch.tensor([[True] * 5, [False, True, True, True, False]]))
    expected = figure_1(block, x, mask, None, mask, norm_first)
    compare(block(x, Context(mask=mask)), expected, [x, *block.parameters()], error)


@pytest.mark.parametrize("with_memory", [True, False])
@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_decoder_block(norm_first: bool, with_memory: bool, randomized: Randomized, error: Error) -> None:
    block = make(randomized, norm_first=norm_first, crosses=with_memory)
    x = random(B, T, D)
    memory = random(B, S, D) if with_memory else None
    memory_mask = AttentionMask(key_padding=torch.tensor([[True] * 5, [True, True, True, False, False]]))
    got = block(x, Context(mask=CAUSAL, memory=memory, memory_mask=memory_mask))
    expected = figure_1(block, x, CAUSAL, memory, memory_mask, norm_first)
    leaves = [x, *block.parameters()] + ([] if memory is None else [memory])
    compare(got, expected, leaves, error)


def test_without_its_memory_a_decoder_block_skips_cross_attention(randomized: Randomized, error: Error) -> None:
    block = make(randomized, crosses=True)
    x = random(B, T, D)
    out = block(x, Context(mask=CAUSAL))
    assert error(out, figure_1(block, x, CAUSAL, None, CAUSAL, False)) <= 1e-12


def test_an_encoder_block_does_not_look_at_a_memory(randomized: Randomized, error: Error) -> None:
    block = make(randomized)
    x = random(B, T, D)
    out = block(x, Context(mask=CAUSAL, memory=random(B, S, D)))
    assert error(out, figure_1(block, x, CAUSAL, None, CAUSAL, False)) <= 1e-12


@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"relative": 9}, {"gated": True}])
def test_cache_step_by_step_equals_all_at_once(options: Any, randomized: Randomized, error: Error) -> None:
    block = make(randomized, crosses=True, **options)
    x, memory = random(B, 6, D), random(B, S, D)
    memory_mask = AttentionMask(key_padding=torch.tensor([[True] * 5, [False, False, True, True, True]]))
    whole = block(x, Context(mask=CAUSAL, memory=memory, memory_mask=memory_mask))
    layer = Cache.growing(1).layers[0]
    steps = []
    for part in x.split_with_sizes([2, 1, 3], dim=1):
        steps.append(block(part, Context(mask=CAUSAL, memory=memory, memory_mask=memory_mask), layer))
        memory = torch.full_like(memory, torch.nan)  # after the first step the cache has what is needed of it
    assert error(torch.cat(steps, dim=1), whole) <= 1e-12
    assert Cache([layer]).get_seq_length() == 6
    assert layer.cross_attention.key.shape == (B, H, S, D // H)
    assert Cache([]).get_seq_length() == 0


def test_packed_equals_padded(randomized: Randomized, error: Error) -> None:
    block = make(randomized)
    lengths = [4, 1, 3]
    padded = random(3, 4, D)
    real = torch.arange(4) < torch.tensor(lengths)[:, None]
    got = block(padded[real], Context(mask=CAUSAL, layout=PackedLayout.from_lengths(lengths)))
    expected = block(padded, Context(mask=AttentionMask(causal=True, key_padding=real)))[real]
    assert error(got, expected) <= 1e-12


def test_hands_mask_bias_heads_and_weights_to_attention(randomized: Randomized, error: Error) -> None:
    block = make(randomized, crosses=True)
    x, memory = random(B, T, D), random(B, S, D)
    factors = torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    bias = DenseBias(random(1, H, T, T))
    kept = Probabilities()
    context = Context(mask=CAUSAL, memory=memory, bias=bias, head_mask=factors, need_weights=True, kept=kept)
    out, expected = block(x, context), block.attention(x, context)
    (own,), (cross,) = kept.own, kept.cross
    assert error(own, expected.weights) <= 1e-15
    assert own.shape == (B, H, T, T)
    assert cross.shape == (B, H, T, S)
    assert error(cross.sum(-1), factors[:, None].expand(B, H, T)) <= 1e-14
    plain = block(x, Context(mask=CAUSAL, memory=memory))
    assert error(plain, out) > 1e-3


@pytest.mark.parametrize(("crosses", "sublayers"), [(False, 2), (True, 3)], ids=["encoder", "decoder"])
def test_dropout_is_on_every_sublayer(crosses: bool, sublayers: int, randomized: Randomized) -> None:
    block = make(randomized, crosses=crosses, dropout=0.3, attention_dropout=0.2)
    calls: list[Tensor] = []
    for dropout in (block.dropout, block.feed_forward_dropout):
        dropout.register_forward_hook(lambda module, inputs, output: calls.append(output))
    block(random(B, T, D), Context(mask=CAUSAL, memory=random(B, S, D) if crosses else None))
    assert len(calls) == sublayers
    assert all(0.1 < (output == 0).double().mean() < 0.5 for output in calls)
    assert [module.dropout_p for module in block.modules() if isinstance(module, MultiHeadAttention)] == [0.2] * (
        sublayers - 1
    )
    assert build(D, H, F_WIDTH, dropout=0.3, feed_forward_dropout=0.1).feed_forward_dropout.p == 0.1


def test_a_mixer_is_anything_with_the_signature(randomized: Randomized, error: Error) -> None:
    class Fourier(nn.Module):
        """FNet's mixer (Lee-Thorp et al. 2021, section 3.2)."""

        def forward(self, x: Tensor, context: Context, cache: Any = None) -> AttentionOutput:
            return AttentionOutput(torch.fft.fft2(x).real)

    block = randomized(Block(Fourier(), FeedForward(D, F_WIDTH), [LayerNorm(D, EPS), LayerNorm(D, EPS)]))
    x = random(B, T, D)
    summed = block.attention_LayerNorm(x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real)
    expected = block.feed_forward_LayerNorm(summed + block.feed_forward(summed))
    assert error(block(x, Context()), expected) <= 1e-12
    assert Stack([block])(x, Context(need_weights=True)).weights == ()


def test_a_stack_runs_its_blocks_in_order_and_norms_the_last_state(randomized: Randomized, error: Error) -> None:
    stack = randomized(Stack([build(D, H, F_WIDTH), build(D, H, F_WIDTH)], LayerNorm(D, EPS), order=[1, 0, 1]))
    for parameter in stack.parameters():
        parameter.data *= 0.4
    x = random(B, T, D)
    factors = torch.rand(3, H, dtype=torch.float64)
    out = stack(x, Context(mask=CAUSAL, head_mask=factors, need_weights=True), keep_states=True)
    states = [x]
    for layer, number in enumerate([1, 0, 1]):
        states.append(
            stack.layer[number](states[-1], Context(mask=CAUSAL, head_mask=factors[layer], need_weights=True))
        )
    states[-1] = stack.LayerNorm(states[-1])
    assert error(out.output, states[-1]) <= 1e-15
    assert [error(got, wanted) for got, wanted in zip(out.hidden_states, states, strict=True)] == [
        0.0
    ] * 4  # the same operations
    assert [tuple(each.shape) for each in out.weights] == [(B, H, T, T)] * 3
    assert stack(x, Context(mask=CAUSAL)).hidden_states == ()


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
    assert list(build(8, 2, 5).state_dict()) == ENCODER
    assert list(build(8, 2, 5, norm_first=True).state_dict()) == ENCODER
    assert sorted(build(8, 2, 5, crosses=True).state_dict()) == sorted(ENCODER + CROSS)
    gate = {"feed_forward.gate.weight", "feed_forward.gate.bias"}
    assert set(build(8, 2, 5, gated=True).state_dict()) == {*ENCODER, *gate}
    table = {"attention.distance_embedding.weight"}
    assert set(build(8, 2, 5, crosses=True, relative=3).state_dict()) == {*ENCODER, *CROSS, *table}


def test_hooks_on_a_block_see_a_tensor_and_may_change_it(randomized: Randomized, error: Error) -> None:
    stack = randomized(Stack([build(D, H, F_WIDTH), build(D, H, F_WIDTH)]))
    x, seen = random(B, T, D), []

    def double(module: nn.Module, given: Any, out: Any) -> Any:
        seen.append(out)
        return out * 2

    stack.layer[0].register_forward_hook(double)
    out = stack(x, Context(need_weights=True))
    assert isinstance(seen[0], Tensor)
    assert error(out.output, stack.layer[1](seen[0] * 2, Context())) <= 1e-14
    assert len(out.weights) == 2
