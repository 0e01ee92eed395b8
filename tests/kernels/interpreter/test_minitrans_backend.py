"""The backend `triton` of minitrans, interpreted: some cases of its contract test, against the oracle in float64.

Float16 stands for low precision: the interpreter multiplies bfloat16 as integers.
"""

from __future__ import annotations

import pytest
import torch

from minitrans.testing.cases import CASES, Case, Fixed, Sizes, draw_inputs
from minitrans.testing.dropout import check_dropout, dropout_cases
from minitrans.testing.subject import Subject, compare, outcome, relative_error

SUBJECT = Subject("triton", torch.device("cpu"), Fixed(), exact=True, backend="triton")
BY_NAME = {case.name: case for case in CASES}
NAMES = (
    "T = 1, causal", "odd sizes", "strided inputs", "padding, T < S", "a sample of padding only",
    "causal, T > S: the first queries see nothing", "asymmetric window, T < S", "window and global tokens, T > S",
    "blocks for each head, T < S", "dense mask", "every mask at once", "bias: dense, one for all samples",
    "bias: buckets, T < S, padding", "bias: ALiBi, T > S, causal", "bias: relative_key", "grouped heads, causal",
    "packed, empty sequences only", "packed, window and global tokens", "packed, bias: dense", "packed, bias: buckets",
    "rule for each sample and head, T < S", "softcap, T > S, causal, bias: dense", "packed, softcap", "packed, rule",
)  # fmt: skip


RUNS = [
    (name, dtype)
    for name in NAMES
    for dtype in (torch.float32, torch.float16)
    if dtype == torch.float32 or BY_NAME[name].low_precision
]


@pytest.mark.parametrize(("name", "dtype"), RUNS)
def test_case(name: str, dtype: torch.dtype):
    call = SUBJECT.build(Sizes())
    inputs = draw_inputs(BY_NAME[name], torch.device("cpu"), dtype)
    found, through = outcome(call, inputs, {})
    expected, _ = outcome(call.oracle(), inputs.to(torch.float64), {}, through=through)
    plain, _ = outcome(call.oracle(), inputs, {}, through=through)

    def allowed(of: str) -> float:
        if dtype == torch.float32:
            return 1e-5
        factor = 3 if of.startswith("gradient") else 2
        return factor * relative_error(plain[of], expected[of]) + torch.finfo(dtype).eps

    compare(found, expected, allowed)


@pytest.mark.parametrize("case", dropout_cases(), ids=lambda case: case.name)
def test_dropout(case: Case):
    check_dropout(SUBJECT, case, torch.float32)
