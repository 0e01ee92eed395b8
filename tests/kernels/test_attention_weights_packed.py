"""`attention_weights_varlen` gives the probabilities that the reference holds, sequence by sequence, and zeros between them."""

from __future__ import annotations

import pytest
import torch
from minitrans_kernels import attention_varlen, attention_weights, attention_weights_varlen
from torch import Tensor

from tests.kernels.packed_weights_cases import LONGEST, OF_KEY, OPTIONS, ROWS, G, H, draw


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [None, ROWS], ids=["all", "some"])
@pytest.mark.parametrize("options", OPTIONS)
def test_rows_of_any_sequences_in_any_order(options: str, rows: Tensor | None, dtype: torch.dtype):
    case = draw(options, 16, dtype)
    _, lse = attention_varlen(
        case.tensors[0], case.tensors[1], case.tensors[1], *case.boundaries, *LONGEST, return_lse=True, **case.options
    )
    found = attention_weights_varlen(*case.tensors[:2], lse, *case.boundaries, *LONGEST, rows, **case.options)
    assert found.dtype == lse.dtype
    expected = case.expected if rows is None else case.expected[:, rows]
    torch.testing.assert_close(found.double(), expected, atol=1e-12 if dtype == torch.float64 else 2e-6, rtol=0)


def test_rows_of_sequences_of_one_length_are_those_of_the_rectangle():
    q, k = torch.randn(3, H, 5, 16), torch.randn(3, G, 7, 16)
    lse = torch.logsumexp(q @ k.repeat_interleave(H // G, 1).mT * 0.25, -1)
    starts = [torch.arange(4, dtype=torch.int32) * length for length in (5, 7)]
    packed = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, lse)]
    found = attention_weights_varlen(*packed, *starts, 5, 7, torch.tensor([2, 3, 7, 8, 12, 13]))
    expected = attention_weights(q, k, lse, torch.tensor([2, 3]))
    for number in range(3):
        rows, keys = slice(2 * number, 2 * number + 2), slice(7 * number, 7 * number + 7)
        torch.testing.assert_close(found[:, rows, keys], expected[number])
        found[:, rows, keys] = 0
    assert not found.any()


@pytest.mark.parametrize("keys", [0, 4])
def test_no_rows_and_no_keys(keys: int):
    q, k = torch.randn(3, H, 16), torch.randn(keys, G, 16)
    starts = torch.tensor([0, 0, 3], dtype=torch.int32), torch.tensor([0, 0, keys], dtype=torch.int32)

    def weights(rows: Tensor | None) -> Tensor:
        return attention_weights_varlen(q, k, torch.zeros(3, H), *starts, 3, 5, rows)

    assert weights(torch.empty(0, dtype=torch.int64)).shape == (H, 0, keys)
    assert weights(torch.tensor([2, 0])).shape == (H, 2, keys)
    assert weights(None).shape == (H, 3, keys)
    assert bool(weights(None).any()) == bool(keys)


@pytest.mark.parametrize("row", [-1, 29])
def test_a_row_that_does_not_exist(row: int):
    case = draw("plain", 16, torch.float32)
    with pytest.raises(ValueError, match=rf"rows must be in 0..28, got \[0, {row}\]"):
        attention_weights_varlen(*case.tensors, *case.boundaries, *LONGEST, torch.tensor([0, row]))


def test_boundaries_that_do_not_fit():
    case = draw("plain", 16, torch.float32)
    with pytest.raises(
        ValueError, match=f"cu_seqlens_k must begin with 0, never fall, and end with {sum(OF_KEY)} tokens"
    ):
        attention_weights_varlen(*case.tensors, case.boundaries[0], case.boundaries[1].flip(0), *LONGEST)
