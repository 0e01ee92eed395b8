"""Packed batches: empty sequences, many of them, tokens of no sequence, and the same numbers as a padded batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from minitrans_kernels.attention import launch
from minitrans_kernels.attention.arguments import AttentionArgs
from torch import Tensor

from tests.kernels.interpreter.cases import (
    Result,
    Tiles,
    assert_close,
    attention_args,
    expected,
    poisoned_memory,
    upstream,
)

ALL = (True, True, True, False, False)


def run(call: AttentionArgs) -> Result:
    of_out, of_lse = upstream(call)
    with poisoned_memory():
        out, lse = launch.forward(call)
        return Result(out, lse, launch.backward(call, out, lse, of_out, of_lse, ALL)[:3])


def with_lengths(call: AttentionArgs, of_query: list[int], of_key: list[int], spare: int = 0) -> AttentionArgs:
    """The same options with sequences of these lengths; `spare` tokens more on each side belong to none."""
    starts = [torch.tensor([0, *of], dtype=torch.int32).cumsum(0, dtype=torch.int32) for of in (of_query, of_key)]
    draw = torch.Generator().manual_seed(2)
    query, key, value = (
        torch.randn(int(begin[-1]) + spare, heads, call.width, generator=draw)
        for begin, heads in ((starts[0], call.heads), (starts[1], call.key_heads), (starts[1], call.key_heads))
    )
    return replace(
        call, query=query, key=key, value=value, cu_seqlens_q=starts[0], cu_seqlens_k=starts[1],
        max_seqlen_q=max(of_query), max_seqlen_k=max(of_key),
    )  # fmt: skip


def assert_right(call: AttentionArgs, got: Result) -> None:
    exact, eager = expected(call, torch.float64), expected(call, torch.float32)
    eps = torch.finfo(torch.float32).eps
    assert_close("out", got.out, exact.out, eager.out, 2, 2 * eps)
    assert_close("lse", got.lse, exact.lse, eager.lse, 2, 16 * eps)
    for name, mine, true, theirs in zip(
        ("query", "key", "value"), got.gradients, exact.gradients, eager.gradients, strict=False
    ):
        assert mine is not None
        assert true is not None
        assert theirs is not None
        assert_close(name, mine, true, theirs, 3, 32 * eps)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("of_query", "of_key"),
    [
        ([5], [7]),
        ([0, 0, 3], [0, 4, 0]),
        ([16, 32, 1], [16, 1, 32]),
        ([0, 0], [3, 0]),
        ([3, 17, 0, 40], [9, 0, 5, 17]),
    ],
)
def test_lengths(tiles: Tiles, of_query: list[int], of_key: list[int], causal: bool):
    tiles(16, 32)
    call = with_lengths(attention_args(packed=True, heads=(2, 1), causal=causal), of_query, of_key)
    if call.query.numel():
        assert_right(call, run(call))
    else:
        assert launch.forward(call)[1].shape == (0, 2)


def test_more_sequences_than_are_counted_at_once(tiles: Tiles):
    tiles(16, 16)
    of_query = [0] * 600
    of_query[3], of_query[511], of_query[512], of_query[599] = 3, 17, 2, 5
    call = with_lengths(attention_args(packed=True, heads=(1, 1)), of_query, of_query)
    assert_right(call, run(call))


def test_tokens_of_no_sequence(tiles: Tiles):
    tiles(16, 16)
    call = attention_args(packed=True)
    ended, whole = (with_lengths(call, [5, 20], [9, 18], spare) for spare in (0, 19))
    count, keys = len(ended.query), len(ended.key)
    ended = replace(ended, query=whole.query[:count], key=whole.key[:keys], value=whole.value[:keys])
    of_out, of_lse = upstream(whole)
    with poisoned_memory():
        out, lse = launch.forward(whole)
        gradients = launch.backward(whole, out, lse, of_out, of_lse, ALL)
        true = launch.forward(ended)
        of_true = launch.backward(ended, *true, of_out[:count], of_lse[:count], ALL)
    assert torch.equal(out[:count], true[0])
    assert torch.equal(lse[:count], true[1])
    assert not out[count:].any()
    assert (lse[count:] == -torch.inf).all()
    for mine, theirs, length in zip(gradients, of_true, (count, keys, keys), strict=False):
        assert mine is not None
        assert theirs is not None
        assert torch.equal(mine[:length], theirs)
        assert not mine[length:].any()


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_packed_and_padded_agree_bit_for_bit(tiles: Tiles, dropout_p: float):
    tiles(16, 16)
    lengths = [20, 7, 17]
    packed = with_lengths(attention_args(packed=True, dropout_p=dropout_p), lengths, lengths)
    real = torch.arange(20)[None] < torch.tensor(lengths)[:, None]  # (B, S)

    def spread(tokens: Tensor) -> Tensor:
        padded = torch.zeros(3, 20, *tokens.shape[1:])
        padded[real] = tokens
        return padded.transpose(1, 2)

    query, key, value = map(spread, (packed.query, packed.key, packed.value))
    padded = replace(packed, query=query, key=key, value=value, key_padding=real, cu_seqlens_q=None, cu_seqlens_k=None)
    of_out, of_lse = upstream(packed)
    out, lse = launch.forward(packed)
    padded_out, padded_lse = launch.forward(padded)
    assert torch.equal(padded_out.transpose(1, 2)[real], out)
    assert torch.equal(padded_lse.transpose(1, 2)[real], lse)
    of = launch.backward(packed, out, lse, of_out, of_lse, ALL)
    of_padded = launch.backward(padded, padded_out, padded_lse, spread(of_out), spread(of_lse), ALL)
    for mine, theirs in zip(of[:3], of_padded[:3], strict=True):
        assert mine is not None
        assert theirs is not None
        assert torch.equal(theirs.transpose(1, 2)[real], mine)
