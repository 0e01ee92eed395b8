"""`PackedLayout`, and running the sequences of a packed batch without an (N, N) matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minitrans.attention import (
    AttentionMask,
    AttentionResult,
    AttentionRules,
    DenseBias,
    MaskRule,
    PackedLayout,
    attend,
)
from minitrans.attention.packed import by_sequence


def test_lengths_and_sequences() -> None:
    layout = PackedLayout.from_lengths([2, 0, 3])
    assert layout.cu_seqlens.tolist() == [0, 2, 2, 5]
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.max_seqlen == 3
    assert layout.lengths() == [2, 0, 3]
    assert layout.sequence_of_token().tolist() == [0, 0, 2, 2, 2]
    assert layout.positions().tolist() == [0, 1, 0, 1, 2]
    assert PackedLayout.from_lengths([]).lengths() == []


@pytest.mark.parametrize(
    ("cu_seqlens", "max_seqlen", "message"),
    [
        (torch.tensor([0, 2, 5]), 3, r"must be a \(B \+ 1\) int32 tensor, got \(3,\) torch.int64"),
        (torch.tensor([[0, 2]], dtype=torch.int32), 2, "must be a"),
        (torch.tensor([1, 2], dtype=torch.int32), 1, r"must begin with 0 and never fall, got \[1, 2\]"),
        (torch.tensor([0, 4, 2], dtype=torch.int32), 4, "never fall"),
        (torch.tensor([0, 2, 5], dtype=torch.int32), 4, "max_seqlen must be 3, the longest length, got 4"),
    ],
)
def test_impossible_layouts_are_refused(cu_seqlens: Tensor, max_seqlen: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PackedLayout(cu_seqlens, max_seqlen)


def test_negative_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths must not be negative, got \[2, -1\]"):
        PackedLayout.from_lengths([2, -1])


def test_sequences_of_equal_length_run_in_one_call() -> None:
    layout = PackedLayout.from_lengths([2, 3, 0, 2])
    query, key = torch.randn(7, 6, 4), torch.randn(7, 3, 4)
    bias = DenseBias(torch.randn(1, 1, 7, 7))
    tokens = torch.tensor([[True, False, False, True, False, False, True]])
    calls: list[tuple[tuple[int, ...], list[list[bool]], list[int]]] = []

    def compute(q: Tensor, k: Tensor, v: Tensor, rules: AttentionRules) -> AttentionResult:
        assert k.shape == (q.shape[0], 3, q.shape[2], 4)
        assert rules.layout is None
        assert (rules.softcap, rules.dropout_p, rules.scale) == (2.0, 0.25, 0.5)
        assert rules.mask.global_tokens is not None
        assert rules.mask.rule is not None
        assert isinstance(rules.bias, DenseBias)
        assert rules.mask.rule.batch == q.shape[0]
        rules.mask.rule.allows(torch.arange(q.shape[0]), *torch.zeros(3, 1, dtype=torch.int64))
        calls.append((tuple(q.shape), rules.mask.global_tokens.tolist(), asked[-q.shape[0] :]))
        weights = rules.bias.values.expand(-1, 6, -1, -1)
        return AttentionResult(q + rules.bias.values.sum(dim=-1, keepdim=True), weights, q[..., 0])

    asked: list[int] = []
    numbers = MaskRule(lambda b, h, i, j: (asked.extend(b.tolist()), b >= 0)[1], batch=4)
    mask = AttentionMask(global_tokens=tokens, rule=numbers)
    rules = AttentionRules(mask, bias, layout, scale=0.5, softcap=2.0, dropout_p=0.25, need_weights=True)
    result = by_sequence(compute, query, key, key, rules)
    assert calls == [
        ((2, 6, 2, 4), [[True, False], [False, True]], [0, 3]),
        ((1, 6, 3, 4), [[False, True, False]], [1]),
    ]
    diagonal = torch.block_diag(*(bias.values[0, 0, a:b, a:b] for a, b in ((0, 2), (2, 5), (5, 7))))
    torch.testing.assert_close(result.output, query + diagonal.sum(-1)[:, None, None])
    assert result.logsumexp is not None
    assert torch.equal(result.logsumexp, query[..., 0])
    assert result.weights is not None
    assert torch.equal(result.weights, diagonal.expand(1, 6, 7, 7))


@pytest.mark.parametrize("backend", ["sdpa", "online_softmax"])
def test_a_layout_of_another_number_of_tokens_is_refused(backend: str) -> None:
    x = torch.randn(6, 2, 4)
    with pytest.raises(ValueError, match="the layout holds 5 tokens, the tensors hold N=6"):
        attend(x, x, x, AttentionRules(layout=PackedLayout.from_lengths([2, 3])), backend=backend)


@pytest.mark.parametrize("backend", ["sdpa", "online_softmax"])
def test_no_matrix_over_all_tokens_is_built(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: PackedLayout) -> Tensor:
        raise AssertionError("an (N, N) matrix was built")

    monkeypatch.setattr(PackedLayout, "same_sequence", forbidden)
    x = torch.randn(9, 2, 4)
    mask = AttentionMask(causal=True, window=(2, 0))
    attend(x, x, x, AttentionRules(mask, layout=PackedLayout.from_lengths([2, 0, 7])), backend=backend)
