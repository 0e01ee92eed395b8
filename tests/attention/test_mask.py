"""`AttentionMask.to_dense` against a predicate on single pairs, and what masks refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrans.attention import AttentionMask, BlockLayout, PackedLayout
from minitrans.testing.naive import may_attend

CPU = torch.device("cpu")
sides = st.none() | st.integers(0, 4)


@st.composite
def masks(draw: st.DrawFn) -> tuple[AttentionMask, int, int, int, int]:
    batch, heads = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    queries, keys = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))

    def bools(*shape: int) -> torch.Tensor | None:
        return torch.rand(shape, generator=generator) > 0.5 if draw(st.booleans()) else None

    size = draw(st.integers(1, 3))
    allowed = bools(draw(st.sampled_from([1, heads])), -(-queries // size), -(-keys // size))
    mask = AttentionMask(
        key_padding=bools(batch, keys),
        causal=draw(st.booleans()),
        window=draw(st.none() | st.tuples(sides, sides)),
        global_tokens=bools(batch, keys),
        blocks=None if allowed is None else BlockLayout(allowed, size),
        dense=bools(draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])), queries, keys),
    )
    return mask, batch, heads, queries, keys


@settings(max_examples=150, deadline=None)
@given(masks(), st.data())
def test_to_dense_says_for_each_pair_what_the_words_say(
    drawn: tuple[AttentionMask, int, int, int, int], data: st.DataObject
) -> None:
    mask, batch, heads, queries, keys = drawn
    mask.check(batch, heads, queries, keys)
    dense = mask.to_dense(queries, keys, CPU)
    found = (torch.ones((), dtype=torch.bool) if dense is None else dense).expand(batch, heads, queries, keys)
    expected = [
        [
            [[may_attend(mask, b, h, i, j, queries, keys) for j in range(keys)] for i in range(queries)]
            for h in range(heads)
        ]
        for b in range(batch)
    ]
    assert found.tolist() == expected

    rows = slice(data.draw(st.integers(0, queries - 1)), queries)
    columns = slice(0, data.draw(st.integers(1, keys)))
    part = mask.to_dense(queries, keys, CPU, rows=rows, columns=columns)
    whole = found[:, :, rows, columns]
    assert torch.equal(torch.ones_like(whole) if part is None else part.expand(whole.shape), whole)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.booleans(), st.none() | st.tuples(sides, sides))
def test_packed_sequences_do_not_see_each_other(
    lengths: list[int], causal: bool, window: tuple[int | None, int | None] | None
) -> None:
    layout = PackedLayout.from_lengths(lengths)
    mask = AttentionMask(causal=causal, window=window)
    tokens = sum(lengths)
    dense = mask.to_dense(tokens, tokens, CPU, layout)
    assert dense is not None
    blocks = [torch.ones(n, n, dtype=torch.bool) for n in lengths]
    for n, block in zip(lengths, blocks, strict=True):
        for i in range(n):
            for j in range(n):
                block[i, j] = may_attend(mask, 0, 0, i, j, n, n)
    assert torch.equal(dense[0, 0], torch.block_diag(*blocks).bool())


def test_nothing_forbidden_is_none() -> None:
    assert AttentionMask().to_dense(3, 5, CPU) is None
    assert AttentionMask(causal=True).to_dense(1, 5, CPU) is None
    assert AttentionMask(causal=True).to_dense(2, 5, CPU) is not None


def test_only_causal() -> None:
    assert AttentionMask(causal=True).only_causal
    assert not AttentionMask().only_causal
    assert not AttentionMask(causal=True, window=(1, None)).only_causal
    assert not AttentionMask(causal=True, key_padding=torch.ones(2, 3, dtype=torch.bool)).only_causal


@pytest.mark.parametrize("name", ["key_padding", "global_tokens"])
def test_masks_of_numbers_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be a bool tensor where True = may attend, got torch.int64"):
        AttentionMask(**{name: torch.ones(2, 5, dtype=torch.int64)})
    with pytest.raises(ValueError, match=rf"{name} must have 2 dimensions, got shape \(5,\)"):
        AttentionMask(**{name: torch.ones(5, dtype=torch.bool)})


def test_additive_masks_are_refused() -> None:
    with pytest.raises(TypeError, match="pass additive scores as a bias"):
        AttentionMask(dense=torch.zeros(2, 3, 5, 7))


def test_impossible_windows_and_blocks() -> None:
    with pytest.raises(ValueError, match=r"window must hold two distances of at least 0 \(or None\), got \(2, -1\)"):
        AttentionMask(window=(2, -1))
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        BlockLayout(torch.ones(1, 2, 2, dtype=torch.bool), 0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (AttentionMask(key_padding=torch.ones(2, 6, dtype=torch.bool)), r"key_padding must be \(B, S\) = \(2, 7\)"),
        (AttentionMask(global_tokens=torch.ones(3, 7, dtype=torch.bool)), r"global_tokens must be \(B, S\) = \(2, 7\)"),
        (AttentionMask(dense=torch.ones(2, 4, 5, 7, dtype=torch.bool)), r"of \(2, 3, 5, 7\), got \(2, 4, 5, 7\)"),
        (AttentionMask(dense=torch.ones(2, 1, 1, 7, dtype=torch.bool)), r"of \(2, 3, 5, 7\), got \(2, 1, 1, 7\)"),
        (
            AttentionMask(blocks=BlockLayout(torch.ones(1, 3, 3, dtype=torch.bool), 2)),
            r"blocks.allowed must be \(H\|1, 3, 4\) for T=5, S=7, size=2, got \(1, 3, 3\)",
        ),
    ],
)
def test_masks_of_the_wrong_size_are_refused(mask: AttentionMask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask.check(2, 3, 5, 7)
