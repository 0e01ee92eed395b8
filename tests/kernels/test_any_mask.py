"""Any predicate of query and key: a bias of -inf where it says no, and the blocks that it allows anything in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minitrans_kernels import BlockLayout, attention, attention_varlen, attention_weights, attention_weights_varlen
from minitrans_kernels.attention.arguments import packed, padded
from minitrans_kernels.attention.reference import reference_attention
from torch import Tensor

H, T, S, K = 2, 21, 33, 16
DTYPE = torch.float64
OTHERS: dict[str, dict[str, Any]] = {
    "alone": {},
    "causal, window": {"causal": True, "window": (20, 3)},
    "window, global tokens": {"window": (6, 6), "global_tokens": True},
    "T5, softcap": {"relative_bias": (torch.randn(8, H, dtype=DTYPE), True, 11), "softcap": 3.0},
}


def predicate(batch: int, heads: int, queries: int = T, keys: int = S) -> Tensor:
    """(batch, heads, T, S) bool: some diagonals, and nothing at all of a corner and of a row."""
    distance = torch.arange(keys) - torch.arange(queries)[:, None]
    mask = distance % 3 != 1
    mask = mask & (torch.rand(batch, heads, queries, keys) < 0.8)
    mask[..., : queries // 2, keys // 2 :] = False
    mask[..., 3, :] = False
    return mask


def as_options(mask: Tensor, others: dict[str, Any], size: int) -> dict[str, Any]:
    bias = torch.zeros(mask.shape, dtype=DTYPE).masked_fill(~mask, -torch.inf)
    return {"bias": bias, "block_layout": BlockLayout.covering(mask, size), **others}


@pytest.mark.parametrize(("queries", "keys", "size"), [(5, 7, 2), (4, 6, 2), (1, 1, 64), (0, 3, 2), (130, 64, 64)])
def test_covering(queries: int, keys: int, size: int):
    mask = torch.rand(3, 1, queries, keys) < 0.1
    allowed, of = BlockLayout.covering(mask, size)
    assert of == size
    assert allowed.shape == (3, 1, -(-queries // size), -(-keys // size))
    for a in range(allowed.shape[2]):
        for b in range(allowed.shape[3]):
            block = mask[..., a * size : a * size + size, b * size : b * size + size]
            assert torch.equal(allowed[..., a, b], block.flatten(2).any(-1))


@pytest.mark.parametrize("others", OTHERS)
@pytest.mark.parametrize(("batch", "heads"), [(1, 1), (2, H), (2, 1), (1, H)])
def test_padded(batch: int, heads: int, others: str):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, H, length, K, dtype=DTYPE, requires_grad=True) for length in (T, S, S))
    mask, given = predicate(batch, heads), dict(OTHERS[others])
    if "global_tokens" in given:
        given["global_tokens"] = torch.rand(2, S) < 0.2
    expected, lse, weights = reference_attention(q, k, v, **as_options(mask, given, 4))
    # global tokens lift the blocks, not the bias: they see what the predicate lets them
    assert not weights[~mask.expand(2, H, T, S)].any()
    found, found_lse = attention(q, k, v, **as_options(mask, given, 4), return_lse=True)
    torch.testing.assert_close((found, found_lse), (expected, lse))
    torch.testing.assert_close(attention_weights(q, k, found_lse, **as_options(mask, given, 4)), weights)
    grad = torch.randn_like(found)
    for ours, theirs in zip(*(torch.autograd.grad(x, (q, k, v), grad) for x in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("others", OTHERS)
def test_packed(batch: int, others: str):
    """By position within the sequence: one mask for all, or one for each, of the longest lengths."""
    torch.manual_seed(0)
    lengths = (9, 21, 4)
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    q, k, v = (torch.randn(sum(lengths), H, K, dtype=DTYPE) for _ in range(3))
    mask, given = predicate(batch, 1, 21, 21), dict(OTHERS[others])
    if "global_tokens" in given:
        given["global_tokens"] = torch.rand(sum(lengths)) < 0.2
    call = (starts, starts, 21, 21)
    found, lse = attention_varlen(q, k, v, *call, **as_options(mask, given, 4), return_lse=True)
    weights = attention_weights_varlen(q, k, lse, *call, **as_options(mask, given, 4))
    for number, length in enumerate(lengths):
        own = slice(int(starts[number]), int(starts[number + 1]))
        told = dict(given)
        if "global_tokens" in given:
            told["global_tokens"] = given["global_tokens"][None, own]
        its_mask = mask[number % batch, :, :length, :length][None]
        parts = (x[own].transpose(0, 1)[None] for x in (q, k, v))
        expected, _, of_pairs = reference_attention(*parts, **as_options(its_mask, told, 4))
        torch.testing.assert_close(found[own], expected[0].transpose(0, 1))
        torch.testing.assert_close(weights[:, own, own], of_pairs[0])


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_tiles_without_a_pair_are_not_visited(layout: str):
    pytest.importorskip("triton")
    from minitrans_kernels.attention.block_index import tiles_that_meet

    torch.manual_seed(0)
    mask = torch.zeros(3, 1, 64, 64, dtype=torch.bool)
    mask[0, 0, :16, :16] = mask[1, 0, 20, 40] = mask[2, 0, 63, 0] = True
    options = as_options(mask, {}, 16)
    x = torch.randn(3, 1, 64, K, dtype=DTYPE)
    if layout == "padded":
        args = padded(x, x, x, None, options)  # type: ignore[arg-type]
    else:
        tokens, starts = x.reshape(192, 1, K), torch.arange(4, dtype=torch.int32) * 64
        args = packed(tokens, tokens, tokens, (starts, starts), (64, 64), options)  # type: ignore[arg-type]
    meet = tiles_that_meet(args, 32, 16)  # (3, 1, 2, 4)
    expected = torch.zeros(3, 1, 2, 4, dtype=torch.bool)
    expected[0, 0, 0, 0] = expected[1, 0, 0, 2] = expected[2, 0, 1, 0] = True
    assert torch.equal(meet, expected)
