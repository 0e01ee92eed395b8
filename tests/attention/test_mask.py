"""`AttentionMask.to_dense` against a predicate on single pairs, and what masks refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitrans.attention import AttentionMask, AttentionRules, BlockLayout, MaskRule, PackedLayout, attend
from minitrans.attention.registry import BACKENDS
from minitrans.testing.naive import may_attend

CPU = torch.device("cpu")
sides = st.none() | st.integers(0, 4)


def rules(batch: int, heads: int, longest: int) -> list[MaskRule]:
    """That look at each of b, h, i, j, or into a table; one that is all or nothing."""
    table = torch.rand(batch, heads, 2 * longest, generator=torch.Generator().manual_seed(longest)) > 0.4
    return [
        MaskRule(lambda b, h, i, j: (i + 2 * j) % 3 != 0),
        MaskRule(lambda b, h, i, j: j % 2 == 0),
        MaskRule(lambda b, h, i, j: i != 1),
        MaskRule(lambda b, h, i, j: (b + j) % 2 == 0, batch),
        MaskRule(lambda b, h, i, j: (h + i) % 2 == 0, 1, heads),
        MaskRule(lambda b, h, i, j: table[b, h, (i - j).abs()], batch, heads),
        MaskRule(lambda b, h, i, j: torch.tensor(False)),
    ]


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
        rule=draw(st.none() | st.sampled_from(rules(batch, heads, max(queries, keys)))),
        dense=bools(draw(st.sampled_from([1, batch])), draw(st.sampled_from([1, heads])), queries, keys),
    )
    return mask, batch, heads, queries, keys


@settings(max_examples=150, deadline=None)
@given(masks(), st.data())
def test_to_dense_says_for_each_pair_what_the_words_say(
    drawn: tuple[AttentionMask, int, int, int, int], data: st.DataObject
) -> None:
    mask, batch, heads, queries, keys = drawn
    mask.check(torch.Size((batch, heads, queries, 4)), torch.Size((batch, heads, keys, 4)))
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
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
    st.booleans(),
    st.none() | st.tuples(sides, sides),
    st.none() | st.integers(0, 4),
)
def test_packed_sequences_do_not_see_each_other(
    lengths: list[int], causal: bool, window: tuple[int | None, int | None] | None, number: int | None
) -> None:
    layout = PackedLayout.from_lengths(lengths)
    rule = None if number is None else rules(len(lengths), 1, 4)[number]
    mask = AttentionMask(causal=causal, window=window, rule=rule)
    tokens = sum(lengths)
    dense = mask.to_dense(tokens, tokens, CPU, layout)
    assert dense is not None
    blocks = [torch.ones(n, n, dtype=torch.bool) for n in lengths]
    for b, (n, block) in enumerate(zip(lengths, blocks, strict=True)):
        for i in range(n):
            for j in range(n):
                block[i, j] = may_attend(mask, b, 0, i, j, n, n)
    assert torch.equal(dense[0, 0], torch.block_diag(*blocks).bool())


def test_nothing_forbidden_is_none() -> None:
    assert AttentionMask().to_dense(3, 5, CPU) is None
    assert AttentionMask(causal=True).to_dense(1, 5, CPU) is None
    assert AttentionMask(causal=True).to_dense(2, 5, CPU) is not None


def test_only_causal() -> None:
    assert AttentionMask(causal=True).only_causal
    assert not AttentionMask().only_causal
    assert not AttentionMask(causal=True, window=(1, None)).only_causal
    assert not AttentionMask(causal=True, rule=MaskRule(lambda b, h, i, j: i == j)).only_causal
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
        mask.check(torch.Size((2, 3, 5, 8)), torch.Size((2, 3, 7, 8)))


B, H, T, S, K = 2, 3, 5, 7, 16
TABLE = torch.rand(B, H, S, generator=torch.Generator().manual_seed(2)) > 0.4
RULES = {
    "positions": MaskRule(lambda b, h, i, j: (i - j).abs() % 3 != 1),
    "samples": MaskRule(lambda b, h, i, j: (j + b) % 2 == 0, B),
    "heads": MaskRule(lambda b, h, i, j: (i - j).abs() <= h, 1, H),
    "a table": MaskRule(lambda b, h, i, j: TABLE[b, h, (i - j).abs()], B, H),
    "keys alone": MaskRule(lambda b, h, i, j: j < 4),
    "nothing": MaskRule(lambda b, h, i, j: i < 0),
}
PADDING = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])


def pairs(rule: MaskRule, queries: int, keys: int, sample: int | None = None) -> torch.Tensor:
    """(B, H, T, S), asked pair by pair, as Python numbers would be; of one sample alone if one is named."""
    samples = range(B) if sample is None else [sample]
    table = [
        [
            [
                [bool(rule.allows(*map(torch.tensor, (b, h, i + keys - queries, j)))) for j in range(keys)]
                for i in range(queries)
            ]
            for h in range(H)
        ]
        for b in samples
    ]
    return torch.tensor(table)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("lengths", [(T, S), (S, T)], ids=["T<S", "T>S"])
def test_a_rule_is_its_dense_form_on_every_backend(backend: str, name: str, lengths: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(B, H, lengths[0], K, generator=generator)
    key, value = torch.randn(2, B, H, lengths[1], K, generator=generator)
    padding = PADDING[:, : lengths[1]]
    for mask in (AttentionMask(), AttentionMask(key_padding=padding), AttentionMask(key_padding=padding, causal=True)):
        ruled = mask.narrowed(RULES[name])
        dense = AttentionMask(key_padding=mask.key_padding, causal=mask.causal, dense=pairs(RULES[name], *lengths))
        found = attend(query, key, value, AttentionRules(ruled), backend=backend).output
        expected = attend(query, key, value, AttentionRules(dense), backend="eager").output
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", RULES)
def test_a_rule_sees_places_and_numbers_of_sequences_in_a_packed_batch(backend: str, name: str) -> None:
    layout = PackedLayout.from_lengths([4, 7])
    query, key, value = torch.randn(3, 11, H, K, generator=torch.Generator().manual_seed(1))
    rules = AttentionRules(AttentionMask(rule=RULES[name]), layout=layout)
    found = attend(query, key, value, rules, backend=backend).output
    for number, span in ((0, slice(0, 4)), (1, slice(4, 11))):
        q, k, v = (tensor[None, span].transpose(1, 2) for tensor in (query, key, value))
        length = q.shape[2]
        alone = AttentionRules(AttentionMask(dense=pairs(RULES[name], length, length, number)))
        expected = attend(q, k, v, alone, backend="eager").output[0].transpose(0, 1)
        torch.testing.assert_close(found[span], expected, rtol=1e-5, atol=1e-6)


def test_narrowed_is_both() -> None:
    odd, near = MaskRule(lambda b, h, i, j: j % 2 == 1, 2), MaskRule(lambda b, h, i, j: (i - j).abs() <= h, 1, 3)
    mask = AttentionMask(causal=True).narrowed(odd).narrowed(near)
    assert mask.causal
    assert mask.rule is not None
    assert (mask.rule.batch, mask.rule.heads) == (2, 3)
    found = mask.to_dense(5, 5, CPU)
    parts = [AttentionMask(causal=True), AttentionMask(rule=odd), AttentionMask(rule=near)]
    first, second, third = (part.to_dense(5, 5, CPU) for part in parts)
    assert found is not None
    assert first is not None
    assert second is not None
    assert third is not None
    assert torch.equal(found, (first & second & third).expand_as(found))
