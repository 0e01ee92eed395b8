"""Gradients of a dense bias and of a distance bias, interpreted: every two options together, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from minitrans_kernels.attention import launch
from minitrans_kernels.attention.arguments import AttentionArgs
from torch import Tensor

from tests.kernels.interpreter.cases import (
    Tiles,
    attention_args,
    expected,
    name_of,
    pairwise,
    poisoned_memory,
    upstream,
)

COMMON: dict[str, tuple[Any, ...]] = {
    "lengths": ((1, 1), (1, 19), (19, 1), (32, 32), (19, 37), (37, 19)),
    "packed": (False, True),
    "heads": ((2, 2), (2, 1)),
    "width": (16, 24, 40),
    "dtype": (torch.float32, torch.float16),
    "padding": (None, "right", "left", "holes", "all of one"),
    "causal": (False, True),
    "window": ((None, None), (2, 1), (None, 0), (3, None), (17, 20)),
    "global_tokens": (False, True),
    "blocks": (None, "each"),
    "softcap": (None, 2.0),
    "dropout_p": (0.0, 0.3),
    "strides": ("contiguous", "heads apart", "every other"),
    "programs": (1, 20, 512),
    "grad_lse": (False, True),
}


def allowed(case: dict[str, Any]) -> bool:
    return not (case["packed"] and case["padding"])


OF_BIAS = pairwise(
    COMMON | {"bias": ((0, 0), (0, 1), (1, 0), (1, 1), "-inf", "one row"), "distance_bias": (False, True)}, allowed
)
OF_DISTANCES = pairwise(COMMON | {"bias": (None, (0, 1)), "distance_bias": (True,), "segment": (1, 2)}, allowed)


@pytest.fixture
def small_tiles(tiles: Tiles):
    tiles(16, 16, bias_gradients=(16, 16, 4, 1))


def gradient(call: AttentionArgs, grad_lse: bool, *, of_bias: bool) -> tuple[Tensor, Tensor]:
    """The gradient, and the delta it was computed with."""
    of_out, of_lse = upstream(call)
    with poisoned_memory():
        out, lse = launch.forward(call)
        launches = launch.Backward(call, out, lse, of_out, of_lse if grad_lse else None)
        launches.fill_delta()
        return launches.grad_bias() if of_bias else launches.grad_distance_bias(), launches.delta


def assert_gradient(call: AttentionArgs, grad_lse: bool, *, of_bias: bool) -> None:
    got, delta = gradient(call, grad_lse, of_bias=of_bias)
    given = call.bias if of_bias else call.distance_bias
    assert given is not None
    assert (got.dtype, got.shape) == (given.dtype, given.shape)
    exact, eager = (expected(call, dtype, grad_lse).gradients for dtype in (torch.float64, call.query.dtype))
    place = 3 if of_bias else 4
    assert exact[place] is not None
    assert eager[place] is not None
    # dS = P (dP - delta) is but rounding where a query has one key: dP and delta are equal sums of `width` products
    size = max(exact[place].abs().max().item(), delta.abs().max().item())
    assert got.isfinite().all()
    error, peer = ((x.double() - exact[place]).abs().max().item() for x in (got, eager[place]))
    assert error <= 3 * peer + 8 * torch.finfo(call.query.dtype).eps * size


def options(case: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in case.items() if name not in ("programs", "grad_lse", "segment")}


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("case", OF_BIAS, ids=name_of)
def test_bias(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]):
    monkeypatch.setattr(launch, "_PROGRAMS", case["programs"])
    assert_gradient(attention_args(**options(case)), case["grad_lse"], of_bias=True)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("case", OF_DISTANCES, ids=name_of)
def test_distances(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]):
    monkeypatch.setattr(launch, "_PROGRAMS", case["programs"])
    monkeypatch.setattr(launch, "_SEGMENT", case["segment"])
    assert_gradient(attention_args(**options(case)), case["grad_lse"], of_bias=False)


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("of_bias", [False, True])
def test_several_groups_of_several_heads(of_bias: bool):
    assert_gradient(
        attention_args(heads=(6, 2), lengths=(5, 19), bias=(0, 1), distance_bias=True), True, of_bias=of_bias
    )


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("of_bias", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_same_bits_twice(of_bias: bool, packed: bool):
    call = attention_args(packed=packed, bias=(0, 0), distance_bias=True, dropout_p=0.2, dtype=torch.float16)
    assert torch.equal(gradient(call, True, of_bias=of_bias)[0], gradient(call, True, of_bias=of_bias)[0])


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("of_bias", [False, True])
def test_nothing_allowed_anywhere(of_bias: bool):
    call = attention_args(bias=(0, 1), distance_bias=True)
    call = replace(call, key_padding=torch.zeros(2, call.max_seqlen_k, dtype=torch.bool))
    assert not gradient(call, True, of_bias=of_bias)[0].any()


@pytest.mark.usefixtures("small_tiles")
def test_diagonals_of_the_dense_gradient_are_that_of_distances():
    call = attention_args(lengths=(23, 41), bias=(0, 1), distance_bias=True)
    dense = gradient(call, False, of_bias=True)[0][0].double()
    sums = torch.stack([dense.diagonal(offset, 1, 2).sum(-1) for offset in range(-22, 41)], 1)
    got = gradient(call, False, of_bias=False)[0].double()
    # two float32 sums of at most 2 · 23 numbers of size one
    assert (got - sums).abs().max() <= 46 * torch.finfo(torch.float32).eps * dense.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("width", [64, 128, 256])
def test_the_tiles_of_the_table(width: int, dtype: torch.dtype):
    call = attention_args(
        lengths=(30, 70), batch=1, heads=(1, 1), width=width, dtype=dtype, bias=(0, 1), distance_bias=True
    )
    assert_gradient(call, False, of_bias=True)
    assert_gradient(call, False, of_bias=False)
