"""What the layers refuse, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from minitrans_kernels import layers

ROWS = torch.zeros(2, 3, 4)
VECTOR, LONG = torch.zeros(4), torch.zeros(5)
IDS = torch.zeros(2, 3, dtype=torch.int64)
TABLE = torch.zeros(6, 4)
META = torch.zeros(4, device="meta")


def norm(x: Any = ROWS, residual: Any = ROWS, weight: Any = VECTOR, bias: Any = VECTOR, **options: Any) -> object:
    return layers.add_dropout_layer_norm(x, residual, weight, bias, **({"eps": 1e-5} | options))


def embed(**changes: Any) -> object:
    given: dict[str, Any] = {
        "input_ids": IDS, "position_ids": IDS, "token_type_ids": IDS, "word": TABLE, "position": TABLE,
        "token_type": TABLE, "weight": VECTOR, "bias": VECTOR, "eps": 1e-5,
    }  # fmt: skip
    return layers.embedding_layer_norm(**(given | changes))


def loss(hidden: Any = ROWS, labels: Any = IDS, weight: Any = TABLE, bias: Any = None) -> object:
    return layers.masked_lm_loss(hidden, labels, weight, bias)


WRONG: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: norm(torch.tensor(1.0)), ValueError, r"x must be \(\.\.\., D\) with D at least 1, got shape \(\)"),
    (lambda: norm(torch.zeros(2, 0)), ValueError, r"x must be \(\.\.\., D\) with D at least 1, got shape \(2, 0\)"),
    (lambda: norm(residual=torch.zeros(2, 4)), ValueError, r"residual must have shape \(2, 3, 4\), got \(2, 4\)"),
    (lambda: norm(weight=LONG), ValueError, r"weight must have shape \(4,\), got \(5,\)"),
    (lambda: norm(bias=LONG), ValueError, r"bias must have shape \(4,\), got \(5,\)"),
    (lambda: norm(ROWS.int()), TypeError, "x must be float16, bfloat16, float32 or float64, got torch.int32"),
    (lambda: norm(bias=META), ValueError, "bias is on meta, the other arguments on cpu"),
    (lambda: norm(eps=-1.0), ValueError, r"eps must not be negative, got -1\.0"),
    (lambda: norm(eps=float("nan")), ValueError, "eps must not be negative, got nan"),
    (lambda: norm(dropout_p=1.0, dropout_seed=1), ValueError, r"must lie in \[0, 1\), got 1\.0"),
    (lambda: norm(dropout_p=0.1), ValueError, r"dropout_p is 0\.1: give dropout_seed, which decides what is dropped"),
    (lambda: norm(dropout_p=0.1, dropout_seed=1.5), TypeError, "seed must be an int or an int64 tensor, got float"),
    (lambda: layers.rms_norm(ROWS, LONG, eps=1e-5), ValueError, r"weight must have shape \(4,\), got \(5,\)"),
    (lambda: layers.rms_norm(ROWS, VECTOR, eps=-1.0), ValueError, "eps must not be negative"),
    (lambda: layers.rms_norm(ROWS, VECTOR.int(), eps=1e-5), TypeError, "weight must be float16"),
    (lambda: layers.bias_gelu(torch.tensor(1.0), VECTOR), ValueError, r"x must be \(\.\.\., F\) with F at least 1"),
    (lambda: layers.bias_gelu(ROWS, LONG), ValueError, r"bias must have shape \(4,\), got \(5,\)"),
    (lambda: layers.bias_gelu(ROWS, VECTOR.bool()), TypeError, "bias must be float16"),
    (lambda: layers.bias_gelu(ROWS, VECTOR, approximate="erf"), ValueError, r"one of \('none', 'tanh'\), got 'erf'"),
    (lambda: embed(word=torch.zeros(4)), ValueError, r"word must be \(rows, 4\), got shape \(4,\)"),
    (lambda: embed(position=torch.zeros(6, 5)), ValueError, r"position must be \(rows, 4\), got shape \(6, 5\)"),
    (lambda: embed(token_type=torch.zeros(6)), ValueError, r"token_type must be \(rows, 4\), got shape \(6,\)"),
    (lambda: embed(token_type=None), ValueError, "token_type_ids and token_type belong together"),
    (lambda: embed(token_type_ids=None), ValueError, "token_type_ids and token_type belong together"),
    (lambda: embed(input_ids=IDS.float()), TypeError, "input_ids must be int64 or int32, got torch.float32"),
    (
        lambda: embed(position_ids=IDS[:, :2]),
        ValueError,
        r"position_ids must broadcast to \(2, 3\), got shape \(2, 2\)",
    ),
    (lambda: embed(token_type_ids=IDS.to("meta")), ValueError, "token_type_ids is on meta"),
    (lambda: embed(padding_idx=6), ValueError, r"padding_idx must be a row of the table, 0 \.\. 5, got 6"),
    (lambda: embed(position_padding_idx=-1), ValueError, r"position_padding_idx must be a row of the table, 0 \.\. 5"),
    (lambda: embed(input_ids=IDS + 6), IndexError, "out of range"),
    (lambda: embed(input_ids=IDS - 1), IndexError, "out of range"),
    (lambda: loss(torch.zeros(4)), ValueError, r"hidden must be \(\.\.\., D\) with D at least 1, got shape \(4,\)"),
    (
        lambda: loss(weight=torch.zeros(6, 5)),
        ValueError,
        r"weight must be \(V, 4\) with V at least 1, got shape \(6, 5\)",
    ),
    (lambda: loss(weight=torch.zeros(0, 4)), ValueError, r"weight must be \(V, 4\) with V at least 1"),
    (lambda: loss(labels=IDS[0]), ValueError, r"labels must have shape \(2, 3\), got \(3,\)"),
    (lambda: loss(bias=VECTOR), ValueError, r"bias must have shape \(6,\), got \(4,\)"),
    (lambda: loss(ROWS.half()), TypeError, "weight must be torch.float16 like hidden, got torch.float32"),
    (lambda: loss(labels=IDS.int()), TypeError, "labels must be int64, got torch.int32"),
    (lambda: loss(labels=IDS.to("meta")), ValueError, "labels is on meta"),
    (lambda: loss(labels=IDS + 6), ValueError, r"labels must be 0 \.\. 5 or the ignored index, got 6"),
    (lambda: loss(labels=IDS - 1), ValueError, r"labels must be 0 \.\. 5 or the ignored index, got -1"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG, ids=[f"{i}" for i in range(len(WRONG))])
def test_says_what_is_wrong(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
