"""Probabilities of a packed batch, interpreted: every option, several tiles of rows and of keys, sequences of all kinds."""

from __future__ import annotations

import pytest
import torch
from minitrans_kernels import attention_weights_varlen, use_tiles
from minitrans_kernels.attention import launch
from minitrans_kernels.attention.arguments import packed
from torch import Tensor

from tests.kernels.interpreter.cases import poisoned_memory
from tests.kernels.packed_weights_cases import LONGEST, OPTIONS, ROWS, draw


@pytest.fixture(autouse=True)
def small_tiles():
    with use_tiles(attention_weights=(16, 16, 4, 1)):
        yield


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("width", "dtype", "strided"), [(16, torch.float32, False), (24, torch.float16, True)])
@pytest.mark.parametrize("rows", [None, ROWS], ids=["all", "some"])
def test_rows_of_any_sequences_in_any_order(
    rows: Tensor | None, width: int, dtype: torch.dtype, strided: bool, options: str
):
    case = draw(options, width, dtype, strided=strided)
    with poisoned_memory():
        found = attention_weights_varlen(*case.tensors, *case.boundaries, *LONGEST, rows, **case.options)
    assert found.dtype == torch.float32
    # float32 scores of size 10 err by 1e-6, their exponential by as much of itself
    expected = case.expected if rows is None else case.expected[:, rows]
    torch.testing.assert_close(found.double(), expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("options", ["plain", "everything"])
def test_rows_that_do_not_exist_give_zeros_and_read_nothing(options: str):
    """Before the first token, after the last, and tokens of no sequence."""
    case = draw(options, 16, torch.float32)
    q, k, lse = case.tensors
    ended = [torch.cat([x, torch.ones(3, *x.shape[1:])]) for x in (q, lse)]
    # between numbers that would make sequences of their own
    boundaries = [torch.cat([-of[-1:], of, 2 * of[-1:]])[1:-1] for of in case.boundaries]
    args = packed(ended[0], k, None, (boundaries[0], boundaries[1]), LONGEST, case.options)
    found = launch.attention_weights(args, ended[1], torch.tensor([-1, len(q), len(q) + 2, 2**40, -(2**40)]))
    assert (found == 0).all()
    assert (launch.attention_weights(args, ended[1], None)[:, len(q) :] == 0).all()


def test_strided_row_numbers_and_log_sum_exp():
    case = draw("plain", 16, torch.float32)
    q, k, lse = case.tensors
    strided = torch.stack([ROWS, ROWS], -1)[:, 0]
    found = attention_weights_varlen(q, k, lse.T.contiguous().T, *case.boundaries, *LONGEST, strided)
    assert torch.equal(found, attention_weights_varlen(q, k, lse, *case.boundaries, *LONGEST, ROWS))
