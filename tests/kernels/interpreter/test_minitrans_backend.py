"""The backend `triton` of minitrans, interpreted: some cases of its contract test, against the oracle in float64.

Float16 stands for low precision: the interpreter multiplies bfloat16 as integers.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from minitrans.attention.contract import OPTIONS

from minitrans.attention.dispatch import attend
from minitrans.testing.cases import CASES, draw_inputs
from minitrans.testing.dropout import check_dropout
from minitrans.testing.subject import Log, Subject, compare, oracle, outcome, relative_error

SUBJECT = Subject("triton", partial(attend, backend="triton"), OPTIONS - {"float64"}, exact=True)
BY_NAME = {case.name: case for case in CASES}
NAMES = (
    "T = 1, causal", "odd sizes", "strided inputs", "padding, T < S", "a sample of padding only",
    "causal, T > S: the first queries see nothing", "asymmetric window, T < S", "window and global tokens, T > S",
    "blocks for each head, T < S", "dense mask", "every mask at once", "bias: dense, one for all samples",
    "bias: buckets, T < S, padding", "bias: ALiBi, T > S, causal", "bias: relative_key", "grouped heads, causal",
    "packed, empty sequences only", "packed, window and global tokens", "packed, bias: dense", "packed, bias: buckets",
)  # fmt: skip


RUNS = [
    (name, dtype)
    for name in NAMES
    for dtype in (torch.float32, torch.float16)
    if dtype == torch.float32 or BY_NAME[name].low_precision
]


@pytest.mark.parametrize(("name", "dtype"), RUNS)
def test_case(name: str, dtype: torch.dtype):
    inputs = draw_inputs(BY_NAME[name], torch.device("cpu"), dtype)
    found, through = outcome(SUBJECT.call, inputs, gradient=True)
    expected, _ = outcome(oracle(SUBJECT), inputs.to(torch.float64), gradient=True, through=through)
    plain, _ = outcome(oracle(SUBJECT), inputs, gradient=True, through=through)

    def allowed(of: str) -> float:
        if dtype == torch.float32:
            return 1e-5
        return (3 if of.startswith("gradient") else 2) * relative_error(plain[of], expected[of]) + torch.finfo(
            dtype
        ).eps

    compare(found, expected, name, allowed)


def test_dropout():
    check_dropout(SUBJECT, torch.device("cpu"), torch.float32, Log())
