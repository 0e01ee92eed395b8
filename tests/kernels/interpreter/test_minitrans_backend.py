"""The backend `triton` of minitrans, interpreted: some cases of its contract test, against the oracle in float64.

Float16 stands for low precision: the interpreter multiplies bfloat16 as integers.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from minitrans.testing.cases import CASES, Case, Fixed
from minitrans.testing.dropout import dropout_against_oracle, dropout_cases
from minitrans.testing.exact import against_oracle
from minitrans.testing.subject import Subject

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
    against_oracle(replace(SUBJECT, dtype=dtype), BY_NAME[name])


@pytest.mark.parametrize("case", dropout_cases(), ids=lambda case: case.name)
def test_dropout(case: Case):
    dropout_against_oracle(replace(SUBJECT, dtype=torch.float32), case)
