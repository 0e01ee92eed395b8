"""The one-pass backward of short sequences, interpreted: every two options together, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from minitrans_kernels.attention import configs, launch
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

CHOICES: dict[str, tuple[Any, ...]] = {
    "lengths": ((1, 1), (1, 37), (37, 1), (32, 32), (19, 53), (70, 53), (53, 19)),
    "packed": (False, True),
    "width": (16, 24, 40, 80),
    "dtype": (torch.float32, torch.float16),
    "padding": (None, "right", "left", "holes", "all of one"),
    "causal": (False, True),
    "window": ((None, None), (2, 1), (None, 0), (3, None), (17, 20)),
    "global_tokens": (False, True),
    "blocks": (None, "each"),
    "bias": (None, (0, 1), "-inf"),
    "distance_bias": (False, True),
    "softcap": (None, 2.0),
    "dropout_p": (0.0, 0.3),
    "scale": (None, -1.0),
    "strides": ("contiguous", "heads apart", "every other", "columns first", "one head"),
    "tiles": ((16, 16), (16, 32), (32, 16), (16, 64)),
    "grad_lse": (False, True),
}
CASES = pairwise(CHOICES, lambda case: not (case["packed"] and case["padding"]))


def gradients(call: AttentionArgs, grad_lse: bool) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Delta, and the gradients of query, key, value."""
    of_out, of_lse = upstream(call)
    with poisoned_memory():
        out, lse = launch.forward(call)
        launches = launch.Backward(call, out, lse, of_out, of_lse if grad_lse else None)
        found, delta = launches.in_one_pass(), launches.delta
    exact = (of_out.double() * out.double()).sum(dim=-1) - (of_lse if grad_lse else 0)
    # a float32 sum of `width` products, less one number
    bound = (call.width + 1) * torch.finfo(torch.float32).eps * (of_out.double() * out.double()).abs().sum(dim=-1)
    assert ((delta - exact).abs() <= bound + torch.finfo(torch.float32).eps * of_lse.abs()).all()
    return delta, found


def assert_gradients(call: AttentionArgs, grad_lse: bool) -> None:
    exact, eager = (expected(call, dtype, grad_lse).gradients for dtype in (torch.float64, call.query.dtype))
    delta, found = gradients(call, grad_lse)
    # dS = P (dP - delta) is but rounding where a query has one key: dP and delta are equal sums of `width` products
    rounding = 8 * torch.finfo(call.query.dtype).eps
    score = delta.abs().max().item() * abs(call.scale)
    sizes = (score * call.key.abs().max().item(), score * call.query.abs().max().item(), 0.0)
    for got, of, true, theirs, size in zip(
        found, (call.query, call.key, call.value), exact, eager, sizes, strict=False
    ):
        assert true is not None
        assert theirs is not None
        assert (got.dtype, got.shape, got.stride()) == (of.dtype, of.shape, torch.empty_like(of).stride())
        assert got.isfinite().all()
        error, peer = ((x.double() - true).abs().max().item() for x in (got, theirs))
        assert error <= 3 * peer + rounding * max(true.abs().max().item(), size)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_gradients(tiles: Tiles, case: dict[str, Any]):
    tiles(16, 16, short_backward=(*case["tiles"], 4, 1))
    call = attention_args(**{name: value for name, value in case.items() if name not in ("tiles", "grad_lse")})
    assert_gradients(call, case["grad_lse"])


WINDOWS = [(False, left, right) for left in (None, 0, 16, 40) for right in (None, 0, 16)]
WINDOWS += [(True, left, None) for left in (None, 1, 17)]


@pytest.mark.parametrize(("causal", "left", "right"), WINDOWS)
@pytest.mark.parametrize("lengths", [(70, 21), (21, 70)])
def test_ranges_of_queries(tiles: Tiles, causal: bool, left: int | None, right: int | None, lengths: tuple[int, int]):
    """Each query tile is written once, whether no, one or several key tiles meet it, wherever the window's edges fall."""
    tiles(16, 16, short_backward=(16, 16, 4, 1))
    assert_gradients(attention_args(lengths=lengths, batch=1, heads=(1, 1), causal=causal, window=(left, right)), False)


@pytest.mark.parametrize("packed", [False, True])
def test_same_bits_twice(tiles: Tiles, packed: bool):
    tiles(16, 16, short_backward=(16, 16, 4, 1))
    call = attention_args(packed=packed, dropout_p=0.2, dtype=torch.float16)
    for one, other in zip(gradients(call, True)[1], gradients(call, True)[1], strict=True):
        assert torch.equal(one, other)


def test_tokens_of_no_sequence_get_zeros(tiles: Tiles):
    tiles(16, 16, short_backward=(16, 16, 4, 1))
    call = attention_args(packed=True)
    some = gradients(call, True)[1]
    longer = {name: torch.cat([getattr(call, name), torch.ones(40, 2, 16)]) for name in ("query", "key", "value")}
    extended = replace(call, **longer)
    of_out, _ = upstream(call)
    with poisoned_memory():
        out, lse = launch.forward(extended)
        grad = torch.cat([of_out, torch.ones(40, 2, 16)])
        more = launch.Backward(extended, out, lse, grad, None).in_one_pass()
        plain = launch.Backward(call, out[:-40], lse[:-40], of_out, None).in_one_pass()
    for short, long, of in zip(plain, more, some, strict=True):
        assert torch.equal(long[:-40], short)
        assert of.shape == short.shape
        assert not long[-40:].any()


@pytest.mark.parametrize(
    ("change", "served"),
    [
        ({}, True),
        ({"lengths": (512, 512)}, True),
        ({"lengths": (513, 8)}, False),
        ({"lengths": (8, 513)}, False),
        ({"width": 40}, True),
        ({"width": 32}, False),
        ({"width": 72}, False),
        ({"heads": (2, 1)}, False),
        ({"dtype": torch.float32}, False),
    ],
)
def test_serves(change: dict[str, Any], served: bool):
    assert configs.serves_short(attention_args(**{"width": 64, "dtype": torch.float16} | change)) is served


def test_serves_what_has_a_configuration(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(configs, "architecture", lambda device: "sm_80")
    assert not configs.serves_short(attention_args(width=64, dtype=torch.float16))


@pytest.mark.parametrize("change", [{}, {"dropout_p": 0.1}, {"bias": (0, 1)}], ids=name_of)
def test_the_tiles_of_the_table(change: dict[str, Any]):
    call = attention_args(lengths=(70, 150), batch=1, heads=(1, 1), width=64, dtype=torch.float16, **change)
    assert configs.serves_short(call)
    assert_gradients(call, False)
