"""The forward kernel, interpreted: every two options together, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from minitrans_kernels.attention import configs, launch

from tests.kernels.interpreter.cases import (
    Tiles,
    assert_close,
    attention_args,
    expected,
    name_of,
    pairwise,
    poisoned_memory,
)

CHOICES: dict[str, tuple[Any, ...]] = {
    "lengths": ((1, 1), (1, 37), (37, 1), (32, 32), (19, 37), (37, 19)),
    "packed": (False, True),
    "heads": ((2, 2), (2, 1)),
    "width": (16, 24, 40, 64, 80),
    "dtype": (torch.float32, torch.float16),  # the interpreter multiplies bfloat16 as integers
    "padding": (None, "right", "left", "holes", "all of one"),
    "causal": (False, True),
    "window": ((None, None), (2, 1), (None, 0), (3, None), (0, 0), (20, 18)),
    "global_tokens": (False, True),
    "blocks": (None, "shared", "each"),
    "bias": (None, (1, 1), (0, 1), (1, 0), (0, 0), "-inf", "one row"),
    "distance_bias": (False, True),
    "softcap": (None, 2.0),
    "dropout_p": (0.0, 0.3),
    "scale": (None, 0.7, -1.0),
    "strides": ("contiguous", "heads apart", "every other", "columns first", "one head"),
    "tiles": ((16, 16), (16, 32), (32, 16)),
}
CASES = pairwise(CHOICES, lambda case: not (case["packed"] and case["padding"]))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_forward(tiles: Tiles, case: dict[str, Any]):
    tiles(*case["tiles"])
    call = attention_args(**{name: value for name, value in case.items() if name != "tiles"})
    with poisoned_memory():
        out, lse = launch.forward(call)
        again = launch.forward(call)
    assert out.dtype == call.query.dtype
    assert lse.dtype == torch.float32
    assert torch.equal(out, again[0])
    assert torch.equal(lse, again[1])
    exact, eager = expected(call, torch.float64), expected(call, call.query.dtype)
    assert_close("out", out, exact.out, eager.out, 2, 2 * torch.finfo(out.dtype).eps * exact.out.abs().max().item())
    largest = exact.lse[exact.lse.isfinite()].abs().max().item() if exact.lse.isfinite().any() else 0.0
    # a change of base at the beginning and one at the end
    assert_close("lse", lse, exact.lse, eager.lse, 2, 4 * torch.finfo(lse.dtype).eps * largest)


@pytest.mark.parametrize("window", [(None, None), (40, None), (None, 20), (37, 18)])
@pytest.mark.parametrize("padding", ["right", "left", "holes", "all of one"])
def test_padding_where_tiles_may_be_full(tiles: Tiles, padding: str, window: tuple[int | None, int | None]):
    tiles(16, 16)
    call = attention_args(lengths=(17, 70), heads=(1, 1), padding=padding, window=window)
    exact, eager = expected(call, torch.float64), expected(call, torch.float32)
    assert_close("out", launch.forward(call)[0], exact.out, eager.out, 2, 4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize(("first", "end"), [(15, 16), (15, 33), (16, 17), (31, 64)])
def test_real_keys_that_begin_and_end_at_the_edges_of_tiles(tiles: Tiles, first: int, end: int):
    tiles(16, 16)
    call = attention_args(lengths=(5, 70), heads=(1, 1), batch=1)
    call = replace(call, key_padding=((torch.arange(70) >= first) & (torch.arange(70) < end))[None])
    exact, eager = expected(call, torch.float64), expected(call, torch.float32)
    assert_close("out", launch.forward(call)[0], exact.out, eager.out, 2, 4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("options", [{"causal": True}, {"window": (5, 3)}], ids=["causal", "window"])
def test_edges_of_the_mask_wherever_they_cross_a_tile(tiles: Tiles, options: dict[str, Any]):
    tiles(16, 16)
    for keys in range(33, 49):
        call = attention_args(lengths=(33, keys), heads=(1, 1), batch=1, **options)
        exact, eager = expected(call, torch.float64), expected(call, torch.float32)
        assert_close("out", launch.forward(call)[0], exact.out, eager.out, 2, 4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("packed", [False, True])
def test_several_groups_of_several_heads(tiles: Tiles, packed: bool):
    tiles(16, 16)
    call = attention_args(packed=packed, heads=(6, 2), lengths=(5, 19))
    exact, eager = expected(call, torch.float64), expected(call, torch.float32)
    assert_close("out", launch.forward(call)[0], exact.out, eager.out, 2, 4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("width", [128, 256])
def test_wide_heads(tiles: Tiles, width: int):
    tiles(16, 16)
    call = attention_args(width=width, lengths=(3, 19), heads=(1, 1))
    exact, eager = expected(call, torch.float64), expected(call, torch.float32)
    assert_close("out", launch.forward(call)[0], exact.out, eager.out, 2, 4 * torch.finfo(torch.float32).eps)


def test_rows_that_see_nothing(tiles: Tiles):
    tiles(16, 16)
    call = attention_args(lengths=(37, 19), causal=True)  # the first 18 queries stand before the first key
    out, lse = launch.forward(call)
    assert not out[:, :, :18].any()
    assert (lse[:, :, :18] == -torch.inf).all()
    assert lse[:, :, 18:].isfinite().all()


def test_the_table_serves_every_width():
    for width in range(1, 257):
        for _, which, kind, _, _ in configs.every_configuration():
            configuration = configs.look_up("sm_90", which, kind, width)
            assert {configuration.block_m % 16, configuration.block_n % 16} == {0}
