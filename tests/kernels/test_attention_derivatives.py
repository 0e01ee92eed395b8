"""Derivatives and their derivatives by finite differences, in float64; and that only what is wanted is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minitrans_kernels import RelativeBias, attention, attention_varlen, attention_weights, attention_weights_varlen
from minitrans_kernels.attention import fallback
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

B, H, G, T, S, K = 2, 2, 1, 3, 4, 16


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def finite(lse: Tensor) -> Tensor:
    return torch.where(lse == -torch.inf, 0.0, lse)


PADDING = torch.tensor([[True, True, False, True], [False] * 4])
FORBIDS = torch.zeros(1, 1, T, S, dtype=torch.float64)
FORBIDS[..., 1, :] = -torch.inf
FORBIDS[..., 2, :2] = -torch.inf
# name -> (leaves besides q, k, v; other options)
CASES: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "plain": ({}, {}),
    "padding, a sample without tokens": ({}, {"key_padding": PADDING}),
    "causal, window": ({}, {"causal": True, "window": (1, 1)}),
    "global tokens, blocks": (
        {},
        {"global_tokens": ~PADDING, "block_layout": (torch.eye(2, dtype=torch.bool)[None], 2), "window": (1, 1)},
    ),
    "softcap": ({}, {"softcap": 2.0, "scale": 0.7}),
    "dropout": ({}, {"dropout_p": 0.3, "dropout_seed": 7}),
    "bias": ({"bias": (B, H, T, S)}, {}),
    "bias of every sample": ({"bias": (1, H, T, S)}, {"causal": True}),
    "bias of every head": ({"bias": (B, 1, T, S)}, {"dropout_p": 0.3, "dropout_seed": 7}),
    "one bias": ({"bias": (1, 1, T, S)}, {"softcap": 2.0}),
    "a bias that forbids": ({}, {"bias": FORBIDS}),
    "T5": ({"table": (8, H)}, {"key_padding": PADDING}),
    "ALiBi": ({"alibi_slopes": (H,)}, {"window": (2, 1)}),
    "everything": (
        {"bias": (1, H, T, S), "table": (8, H), "alibi_slopes": (H,)},
        {"key_padding": PADDING, "causal": True, "softcap": 2.0, "dropout_p": 0.3, "dropout_seed": 7},
    ),
}


def arguments(names: list[str], tensors: tuple[Tensor, ...]) -> dict[str, Any]:
    given: dict[str, Any] = dict(zip(names, tensors, strict=True))
    if "table" in given:
        given["relative_bias"] = RelativeBias(given.pop("table"), True, 11)
    return given


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives(name: str):
    torch.manual_seed(0)
    shapes, options = CASES[name]
    leaves = (randn(B, H, T, K), randn(B, G, S, K), randn(B, G, S, K), *(randn(*shape) for shape in shapes.values()))

    def function(q: Tensor, k: Tensor, v: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = attention(q, k, v, return_lse=True, **arguments(list(shapes), others), **options)
        return out, finite(lse)

    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("name", ["plain", "dropout", "bias", "T5", "ALiBi", "causal, window"])
def test_derivatives_of_a_packed_batch(name: str):
    torch.manual_seed(0)
    shapes, options = CASES[name]
    options = {key: value for key, value in options.items() if key != "key_padding"}
    leaves = (randn(4, H, K), randn(6, G, K), randn(6, G, K), *(randn(*shape) for shape in shapes.values()))
    starts_q = torch.tensor([0, 1, 4], dtype=torch.int32)
    starts_k = torch.tensor([0, 4, 6], dtype=torch.int32)

    def function(q: Tensor, k: Tensor, v: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
        given = arguments(list(shapes), others)
        out, lse = attention_varlen(q, k, v, starts_q, starts_k, T, S, return_lse=True, **given, **options)
        return out, finite(lse)

    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize(
    "rows", [None, torch.tensor([2, 0]), torch.tensor([[1], [2]])], ids=["all", "shared", "of each sample"]
)
@pytest.mark.parametrize("name", ["plain", "softcap", "everything"])
def test_derivatives_of_weights(name: str, rows: Tensor | None):
    torch.manual_seed(0)
    shapes, options = CASES[name]
    options = {key: value for key, value in options.items() if "dropout" not in key}
    leaves = (randn(B, H, T, K), randn(B, G, S, K), randn(B, H, T), *(randn(*shape) for shape in shapes.values()))

    def function(q: Tensor, k: Tensor, lse: Tensor, *others: Tensor) -> Tensor:
        return attention_weights(q, k, lse, rows, **arguments(list(shapes), others), **options)

    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("rows", [None, torch.tensor([3, 0, 2, 3])], ids=["all", "some"])
@pytest.mark.parametrize("name", ["softcap", "bias", "T5", "causal, window"])
def test_derivatives_of_weights_of_a_packed_batch(name: str, rows: Tensor | None):
    torch.manual_seed(0)
    shapes, options = CASES[name]
    options = {key: value for key, value in options.items() if key != "key_padding"}
    leaves = (randn(4, H, K), randn(6, G, K), randn(4, H), *(randn(*shape) for shape in shapes.values()))
    starts = [torch.tensor(of, dtype=torch.int32) for of in ([0, 1, 4], [0, 4, 6])]

    def function(q: Tensor, k: Tensor, lse: Tensor, *others: Tensor) -> Tensor:
        given = arguments(list(shapes), others)
        return attention_weights_varlen(q, k, lse, *starts, T, S, rows, **given, **options)

    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


def test_one_tensor_as_query_key_and_value():
    """Its gradient is the sum of three parts, each once, also where the derivative is derived again."""
    x = randn(1, 2, 3, K)
    assert gradcheck(lambda x: attention(x, x, x), x)
    assert gradgradcheck(lambda x: attention(x, x, x), x, fast_mode=True)
    plain, derivable = (
        torch.autograd.grad(attention(x, x, x).square().sum(), x, create_graph=create_graph)[0]
        for create_graph in (False, True)
    )
    torch.testing.assert_close(plain, derivable)


def test_third_derivative():
    x = randn(1, 1, 2, K)
    with torch.no_grad():
        x.mul_(0.1)

    def slope(x: Tensor) -> Tensor:
        (grad,) = torch.autograd.grad(attention(x, x, x).square().sum(), x, create_graph=True)
        return grad

    assert gradgradcheck(slope, x, fast_mode=True)


def test_only_what_is_wanted_is_computed(monkeypatch: pytest.MonkeyPatch):
    asked = []

    def spy(*given: Any) -> Any:
        asked.append(given[-1])
        return original(*given)

    original = fallback.backward
    monkeypatch.setattr(fallback, "backward", spy)
    q, k, v = torch.randn(B, H, T, K), torch.randn(B, G, S, K), torch.randn(B, G, S, K, requires_grad=True)
    bias = torch.randn(1, H, T, S)
    attention(q, k, v, bias=bias).sum().backward()
    assert asked.pop() == (False, False, True, False, False)
    attention(
        q.requires_grad_(), k, v.detach(), bias=bias, alibi_slopes=torch.ones(H, requires_grad=True)
    ).sum().backward()
    assert asked.pop() == (True, False, False, False, True)


def test_through_the_log_sum_exp_alone():
    q, k = randn(B, H, T, K), randn(B, H, S, K)
    _, lse = attention(q, k, k, return_lse=True)
    found = torch.autograd.grad(lse.sum(), (q, k))
    expected = torch.autograd.grad(torch.logsumexp(q @ k.mT * K**-0.5, -1).sum(), (q, k))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("create_graph", [False, True])
def test_without_tokens_gradients_are_zero(create_graph: bool):
    q, k = randn(B, H, T, K), randn(B, H, 0, K)
    bias, slopes = randn(1, H, T, 0), randn(H)
    out, lse = attention(q, k, k, bias=bias, alibi_slopes=slopes, return_lse=True)
    assert (out == 0).all()
    assert (lse == -torch.inf).all()
    for grad in torch.autograd.grad(out.sum(), (q, k, bias, slopes), create_graph=create_graph):
        assert (grad == 0).all()
