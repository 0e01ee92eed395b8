"""The backward kernels, interpreted: every two options together, against automatic differentiation in float64."""

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
    assert_close,
    attention_args,
    expected,
    name_of,
    pairwise,
    poisoned_memory,
    upstream,
)

CHOICES: dict[str, tuple[Any, ...]] = {
    "lengths": ((1, 1), (1, 19), (19, 1), (32, 32), (19, 37), (37, 19)),
    "packed": (False, True),
    "heads": ((2, 2), (2, 1)),
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
    "tiles": ((16, 16), (16, 32), (32, 16)),
    "grad_lse": (False, True),
}
CASES = pairwise(CHOICES, lambda case: not (case["packed"] and case["padding"]))
ALL = (True, True, True, False, False)


def gradients(
    call: AttentionArgs, grad_lse: bool, wants: tuple[bool, bool, bool, bool, bool] = ALL
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    of_out, of_lse = upstream(call)
    with poisoned_memory():
        out, lse = launch.forward(call)
        return launch.backward(call, out, lse, of_out, of_lse if grad_lse else None, wants)[:3]


def assert_gradients(call: AttentionArgs, got: tuple[Tensor | None, ...], grad_lse: bool) -> None:
    exact, eager = (expected(call, dtype, grad_lse).gradients for dtype in (torch.float64, call.query.dtype))
    eps, size = torch.finfo(call.query.dtype).eps, abs(call.scale) * call.width**0.5 / (1 - call.dropout_p)
    # dS is P (dP - delta), two sums of `width` products of numbers of size 1: where they are equal, their rounding is left
    floors = (eps * size * call.key.abs().max().item(), eps * size * call.query.abs().max().item(), 0.0)
    for name, mine, true, theirs, floor in zip(("query", "key", "value"), got, exact, eager, floors, strict=False):
        if mine is not None and true is not None and theirs is not None:
            assert mine.dtype == call.query.dtype
            assert_close(name, mine, true, theirs, 3, 4 * eps * true.abs().max().item() + 4 * floor)


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_gradients(tiles: Tiles, case: dict[str, Any]):
    tiles(*case["tiles"])
    call = attention_args(**{name: value for name, value in case.items() if name not in ("tiles", "grad_lse")})
    assert_gradients(call, gradients(call, case["grad_lse"]), case["grad_lse"])


@pytest.mark.parametrize("window", [(None, None), (40, 18)])
@pytest.mark.parametrize("padding", ["right", "left", "holes"])
def test_padding_where_tiles_may_be_full(tiles: Tiles, padding: str, window: tuple[int | None, int | None]):
    tiles(16, 16)
    call = attention_args(lengths=(20, 70), heads=(1, 1), padding=padding, window=window)
    assert_gradients(call, gradients(call, True), True)


@pytest.mark.parametrize(("first", "end"), [(15, 16), (15, 33), (16, 17), (31, 64)])
def test_real_keys_that_begin_and_end_at_the_edges_of_tiles(tiles: Tiles, first: int, end: int):
    tiles(16, 16)
    call = attention_args(lengths=(5, 70), heads=(1, 1), batch=1)
    call = replace(call, key_padding=((torch.arange(70) >= first) & (torch.arange(70) < end))[None])
    assert_gradients(call, gradients(call, True), True)


@pytest.mark.parametrize("options", [{"causal": True}, {"window": (5, 3)}], ids=["causal", "window"])
def test_edges_of_the_mask_wherever_they_cross_a_tile(tiles: Tiles, options: dict[str, Any]):
    tiles(16, 16)
    for keys in range(33, 49):
        call = attention_args(lengths=(33, keys), heads=(1, 1), batch=1, **options)
        assert_gradients(call, gradients(call, True), True)


@pytest.mark.parametrize("packed", [False, True])
def test_several_groups_of_several_heads(tiles: Tiles, packed: bool):
    tiles(16, 16)
    call = attention_args(packed=packed, heads=(6, 2), lengths=(5, 19))
    assert_gradients(call, gradients(call, True), True)


def test_same_bits_twice(tiles: Tiles):
    tiles(16, 16)
    call = attention_args(batch=1, heads=(2, 1), causal=True, dropout_p=0.3, distance_bias=True)
    for one, other in zip(gradients(call, True), gradients(call, True), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "wants", [(False, True, False), (False, False, True), (True, False, False), (True, False, True)]
)
def test_only_the_gradients_that_are_wanted(tiles: Tiles, wants: tuple[bool, bool, bool]):
    tiles(16, 16)
    call = attention_args(packed=wants[1], lengths=(19, 18), causal=True)
    got = gradients(call, True, (*wants, False, False))
    assert tuple(gradient is not None for gradient in got) == wants
    for mine, one_of_all in zip(got, gradients(call, True), strict=True):
        if mine is not None and one_of_all is not None:
            assert torch.equal(mine, one_of_all)


@pytest.mark.parametrize("causal", [False, True])
def test_large_scores(tiles: Tiles, causal: bool):
    tiles(16, 16)
    call = attention_args(scale=20.0, causal=causal)
    assert_gradients(call, gradients(call, True), True)


def test_many_short_sequences_take_one_pass(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(configs, "_ENOUGH_PROGRAMS", 4)
    assert not configs.in_one_pass(attention_args(heads=(1, 1)))
    call = attention_args(lengths=(3, 5), width=40, dtype=torch.float16)
    assert configs.in_one_pass(call)
    monkeypatch.setattr(launch.Backward, "grad_query", None)
    assert_gradients(call, gradients(call, True), True)
