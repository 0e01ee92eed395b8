"""`PackedLayout`, and running the sequences of a packed batch without an (N, N) matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from minitrans.attention import AttentionBias, AttentionMask, DenseBias, PackedLayout, attend
from minitrans.attention.packed import run_sequences


def test_lengths_and_sequences() -> None:
    layout = PackedLayout.from_lengths([2, 0, 3])
    assert layout.cu_seqlens.tolist() == [0, 2, 2, 5]
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.max_seqlen == 3
    assert layout.lengths() == [2, 0, 3]
    assert layout.sequence_of_token().tolist() == [0, 0, 2, 2, 2]
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
    calls: list[tuple[tuple[int, ...], list[list[bool]]]] = []

    def compute(
        q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, part: AttentionBias | None
    ) -> tuple[Tensor, Tensor]:
        assert k.shape == (q.shape[0], 3, q.shape[2], 4)
        assert mask.global_tokens is not None
        assert isinstance(part, DenseBias)
        calls.append((tuple(q.shape), mask.global_tokens.tolist()))
        return q + part.values.sum(dim=-1, keepdim=True), q[..., 0]

    mask = AttentionMask(global_tokens=tokens)
    output, logsumexp = run_sequences(compute, query, key, key, mask=mask, bias=bias, layout=layout)
    assert calls == [((2, 6, 2, 4), [[True, False], [False, True]]), ((1, 6, 3, 4), [[False, True, False]])]
    diagonal = torch.block_diag(*(bias.values[0, 0, a:b, a:b] for a, b in ((0, 2), (2, 5), (5, 7))))
    torch.testing.assert_close(output, query + diagonal.sum(-1)[:, None, None])
    assert logsumexp is not None
    assert torch.equal(logsumexp, query[..., 0])


@pytest.mark.parametrize("backend", ["sdpa", "online_softmax"])
def test_a_layout_of_another_number_of_tokens_is_refused(backend: str) -> None:
    x = torch.randn(6, 2, 4)
    with pytest.raises(ValueError, match="the layout holds 5 tokens, the tensors hold N=6"):
        attend(x, x, x, layout=PackedLayout.from_lengths([2, 3]), backend=backend)


@pytest.mark.parametrize("backend", ["sdpa", "online_softmax"])
def test_no_matrix_over_all_tokens_is_built(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(self: PackedLayout) -> Tensor:
        raise AssertionError("an (N, N) matrix was built")

    monkeypatch.setattr(PackedLayout, "same_sequence", forbidden)
    x = torch.randn(9, 2, 4)
    mask = AttentionMask(causal=True, window=(2, 0))
    attend(x, x, x, mask=mask, layout=PackedLayout.from_lengths([2, 0, 7]), backend=backend)
