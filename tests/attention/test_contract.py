"""Every registered backend and variant keeps the contract: a new row is tested by being registered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minitrans.attention.online_softmax import OnlineSoftmaxAttention
from minitrans.attention.registry import BACKENDS, VARIANTS
from minitrans.testing import check_attention

# Options without which a variant cannot be made.
VARIANT_OPTIONS: dict[str, dict[str, Any]] = {"sliding_window": {"window": 2}}


@pytest.mark.parametrize("name", BACKENDS)
def test_backend(name: str) -> None:
    report = check_attention(name)
    assert len(report.passed) > 50


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str) -> None:
    report = check_attention({"name": name, **VARIANT_OPTIONS.get(name, {})}, dtypes=(torch.float64,))
    assert len(report.passed) > 10


@pytest.mark.parametrize("tiles", [(1, 1), (2, 3), (5, 2)])
def test_online_softmax_in_tiles_smaller_than_the_sequences(tiles: tuple[int, int]) -> None:
    check_attention(OnlineSoftmaxAttention(query_tile=tiles[0], key_tile=tiles[1]))


def test_only_what_is_said_to_be_unsupported_is_refused() -> None:
    assert check_attention("eager").refused == ()
    assert check_attention("sdpa").refused == ()
    assert check_attention("online_softmax").refused == ()
    refused = check_attention("flex", dtypes=(torch.float64,)).refused
    assert {name.split(", ", 1)[1] for name in refused} == {
        "gradient of the query",
        "gradient of the key",
        "gradient of the value",
        "gradient of the bias parameter",
        "dropout",
        "dropout, padding",
        "dropout, ALiBi",
        "dropout, grouped heads",
        "dropout, packed",
    }


def test_report_says_how_much_was_run() -> None:
    report = check_attention("sdpa", dtypes=(torch.float64,))
    assert str(report) == f"{len(report.passed)} checks passed, 0 refused as not supported"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", BACKENDS)
def test_backend_on_cuda(name: str) -> None:
    check_attention(name, device="cuda")
