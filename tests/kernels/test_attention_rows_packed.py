"""`attention_rows_varlen` gives the rows of the probabilities that the reference holds in full, sequence by sequence."""

from __future__ import annotations

import pytest
import torch
from minitrans_kernels import attention_rows, attention_rows_varlen, attention_varlen
from torch import Tensor

from tests.kernels.packed_rows_cases import LONGEST, OF_KEY, OPTIONS, ROWS, G, H, draw


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS)
def test_rows_of_any_sequences_in_any_order(options: str, dtype: torch.dtype):
    case = draw(options, 16, dtype)
    _, lse = attention_varlen(
        case.tensors[0], case.tensors[1], case.tensors[1], *case.boundaries, *LONGEST, return_lse=True, **case.options
    )
    found = attention_rows_varlen(*case.tensors[:2], lse, ROWS, *case.boundaries, *LONGEST, **case.options)
    assert found.dtype == lse.dtype
    torch.testing.assert_close(found.double(), case.expected, atol=1e-12 if dtype == torch.float64 else 2e-6, rtol=0)


def test_rows_of_sequences_of_one_length_are_those_of_the_rectangle():
    q, k = torch.randn(3, H, 5, 16), torch.randn(3, G, 7, 16)
    lse = torch.logsumexp(q @ k.repeat_interleave(H // G, 1).mT * 0.25, -1)
    starts = [torch.arange(4, dtype=torch.int32) * length for length in (5, 7)]
    packed = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, lse)]
    found = attention_rows_varlen(*packed, torch.tensor([2, 3, 7, 8, 12, 13]), *starts, 5, 7)
    expected = attention_rows(q, k, lse, torch.tensor([2, 3]))
    torch.testing.assert_close(found, expected.transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize("keys", [0, 4])
def test_no_rows_and_no_keys(keys: int):
    q, k = torch.randn(3, H, 16), torch.randn(keys, G, 16)
    starts = torch.tensor([0, 0, 3], dtype=torch.int32), torch.tensor([0, 0, keys], dtype=torch.int32)

    def rows(*wanted: int) -> Tensor:
        numbers = torch.tensor(wanted, dtype=torch.int64)
        return attention_rows_varlen(q, k, torch.zeros(3, H), numbers, *starts, 3, 5)

    assert rows().shape == (0, H, 5)
    assert rows(2, 0).shape == (2, H, 5)
    assert bool(rows(2, 0).any()) == bool(keys)


@pytest.mark.parametrize("row", [-1, 29])
def test_a_row_that_does_not_exist(row: int):
    case = draw("plain", 16, torch.float32)
    with pytest.raises(ValueError, match=rf"rows must be in 0..28, got \[0, {row}\]"):
        attention_rows_varlen(*case.tensors, torch.tensor([0, row]), *case.boundaries, *LONGEST)


def test_boundaries_that_do_not_fit():
    case = draw("plain", 16, torch.float32)
    with pytest.raises(
        ValueError, match=f"cu_seqlens_k must begin with 0, never fall, and end with {sum(OF_KEY)} tokens"
    ):
        attention_rows_varlen(*case.tensors, ROWS, case.boundaries[0], case.boundaries[1].flip(0), *LONGEST)
