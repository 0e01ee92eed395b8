"""The kernel for rows of a packed batch, interpreted: every option, several tiles of keys, sequences of all kinds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from minitrans_kernels import attention_rows_varlen
from minitrans_kernels.attention import rows as kernel
from minitrans_kernels.attention.arguments import Options, packed

from tests.kernels.interpreter.cases import poisoned_memory
from tests.kernels.packed_rows_cases import LONGEST, OPTIONS, ROWS, draw


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch):
    """32 keys at width 16, 16 at 24."""
    monkeypatch.setattr(kernel, "_PRODUCTS", 512)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("width", "dtype", "strided"), [(16, torch.float32, False), (24, torch.float16, True)])
def test_rows_of_any_sequences_in_any_order(width: int, dtype: torch.dtype, strided: bool, options: str):
    case = draw(options, width, dtype, strided=strided)
    with poisoned_memory():
        found = attention_rows_varlen(*case.tensors, ROWS, *case.boundaries, *LONGEST, **case.options)
    assert found.dtype == torch.float32
    # float32 scores of size 10 err by 1e-6, their exponential by as much of itself
    torch.testing.assert_close(found.double(), case.expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("options", ["plain", "everything"])
def test_rows_that_do_not_exist_give_zeros_and_read_nothing(options: str):
    """Before the first token, after the last, and tokens of no sequence."""
    case = draw(options, 16, torch.float32)
    q, k, lse = case.tensors
    ended = [torch.cat([x, torch.ones(3, *x.shape[1:])]) for x in (q, lse)]
    # between numbers that would make sequences of their own
    boundaries = [torch.cat([-of[-1:], of, 2 * of[-1:]])[1:-1] for of in case.boundaries]
    given: dict[str, Any] = {**dict.fromkeys(Options.__dataclass_fields__), "causal": False, "dropout_p": 0.0}
    problem = packed(ended[0], k, k, (boundaries[0], boundaries[1]), LONGEST, Options(**{**given, **case.options}))
    found = kernel.probabilities(problem, ended[1], torch.tensor([-1, len(q), len(q) + 2, 2**40, -(2**40)]))
    assert (found == 0).all()


def test_strided_row_numbers_and_log_sum_exp():
    case = draw("plain", 16, torch.float32)
    q, k, lse = case.tensors
    strided = torch.stack([ROWS, ROWS], -1)[:, 0]
    found = attention_rows_varlen(q, k, lse.T.contiguous().T, strided, *case.boundaries, *LONGEST)
    assert torch.equal(found, attention_rows_varlen(q, k, lse, ROWS, *case.boundaries, *LONGEST))
