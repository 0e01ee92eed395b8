"""Attention sinks against what they stand for: one more key whose value is zero and whose score is the sink."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionMask, Context, DenseBias, LayerSizes, PackedLayout
from minitrans.attention.registry import BACKENDS
from minitrans.attention.variants.sink import Sink
from minitrans.errors import NotSupportedError
from minitrans.layers.multi_head_attention import MultiHeadAttention

B, H, G, T, K = 2, 4, 2, 5, 8
CAN = [name for name in BACKENDS if name != "sdpa"]
REAL = torch.tensor([[True] * 5, [True, True, False, False, False]])
Block = Callable[..., MultiHeadAttention]


def with_a_column(
    module: MultiHeadAttention, x: Tensor, allowed: Tensor, bias: Tensor, sink: Tensor
) -> tuple[Tensor, Tensor]:
    """Output and probabilities; the softmax runs over the keys and the sink, whose column then falls away."""
    batch, length, _ = x.shape

    def split(projected: Tensor, heads: int) -> Tensor:
        return projected.view(batch, length, heads, K).transpose(1, 2).repeat_interleave(H // heads, 1)

    query, key, value = split(module.query(x), H), split(module.key(x), G), split(module.value(x), G)
    scores = (query @ key.mT * K**-0.5 + bias).masked_fill(~allowed, -torch.inf)
    column = sink.view(1, H, 1, 1).expand(batch, H, length, 1)
    weights = torch.cat([scores, column], dim=-1).softmax(-1)[..., :-1]
    return module.output((weights @ value).transpose(1, 2).flatten(2)), weights


def rules_of(length: int) -> tuple[AttentionMask, Tensor]:
    return AttentionMask(key_padding=REAL, causal=True), REAL[:, None, None] & torch.ones(length, length).tril().bool()


@pytest.mark.parametrize("backend", CAN)
@pytest.mark.parametrize("learned", [True, False])
def test_output_and_probabilities_are_those_with_one_more_key(backend: str, learned: bool, block: Block) -> None:
    module = block({"name": "sink", "initial": 0.7, "learned": learned}, backend, num_kv_heads=G)
    sink = module.variants[0].logit if learned else torch.full((H,), 0.7, dtype=torch.float64)
    x, bias = torch.randn(B, T, 32, dtype=torch.float64), torch.randn(1, H, T, T, dtype=torch.float64)
    mask, allowed = rules_of(T)
    with torch.no_grad():
        found = module(x, Context(mask, DenseBias(bias), need_weights=True))
        output, weights = with_a_column(module, x, allowed, bias, sink)
    torch.testing.assert_close(found.output, output, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.weights, weights, rtol=1e-10, atol=1e-10)
    assert (found.weights.sum(-1) < 1).all()


@pytest.mark.parametrize("backend", [name for name in CAN if name != "flex"])
def test_gradients_are_those_with_one_more_key(backend: str, block: Block) -> None:
    module = block("sink", backend, num_kv_heads=G)
    x = torch.randn(B, T, 32, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, H, T, T, dtype=torch.float64, requires_grad=True)
    mask, allowed = rules_of(T)
    leaves = [x, bias, *module.parameters()]
    factor = torch.randn(B, T, 32, dtype=torch.float64)
    found = module(x, Context(mask, DenseBias(bias))).output
    expected, _ = with_a_column(module, x, allowed, bias, module.variants[0].logit)
    for ours, theirs in zip(
        *(torch.autograd.grad((output * factor).sum(), leaves) for output in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("backend", CAN)
@torch.no_grad()
def test_packed_sequences_have_the_same_sinks(backend: str, block: Block) -> None:
    module = block("sink", backend)
    x = torch.randn(6, 32, dtype=torch.float64)
    found = module(x, Context(layout=PackedLayout.from_lengths([2, 4]), need_weights=True))
    for span in (slice(0, 2), slice(2, 6)):
        alone = module(x[None, span], Context(need_weights=True))
        torch.testing.assert_close(found.output[span], alone.output[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.weights[0, :, span, span], alone.weights[0], rtol=1e-10, atol=1e-10)
    assert (found.weights[0, :, :2, 2:] == 0).all()


@torch.no_grad()
def test_the_limits(block: Block) -> None:
    x = torch.randn(B, T, 32, dtype=torch.float64)
    full = block("full")
    outputs = {}
    for initial in (-1e4, 0.0, 1e4):
        full.set_attention({"name": "sink", "initial": initial, "learned": False})
        outputs[initial] = full(x, Context()).output
    full.set_attention("full")
    torch.testing.assert_close(outputs[-1e4], full(x, Context()).output, rtol=1e-12, atol=1e-12)
    assert (outputs[0.0] - outputs[-1e4]).abs().max() > 1e-3
    torch.testing.assert_close(outputs[1e4], full.output.bias.expand(B, T, -1), rtol=0, atol=0)  # nothing is left


@torch.no_grad()
def test_a_query_that_sees_nothing_gives_nothing(block: Block) -> None:
    module = block("sink")
    mask = AttentionMask(key_padding=torch.tensor([[True] * T, [False] * T]))
    found = module(torch.randn(B, T, 32, dtype=torch.float64), Context(mask)).output
    assert torch.equal(found[1], module.output.bias.expand(T, -1))


def test_a_fixed_sink_is_no_parameter() -> None:
    sizes = LayerSizes(32, H, H, K)
    assert [tuple(each.shape) for each in Sink(sizes, initial=0.5).parameters()] == [(H,)]
    assert Sink(sizes, initial=0.5).logit.tolist() == [0.5] * H
    assert list(Sink(sizes, learned=False).parameters()) == []


@torch.no_grad()
def test_sdpa_gives_no_logsumexp(block: Block) -> None:
    with pytest.raises(NotSupportedError, match="'sdpa' does not support the logsumexp; supported by: eager, flex"):
        block("sink", "sdpa")(torch.randn(B, T, 32, dtype=torch.float64), Context())
