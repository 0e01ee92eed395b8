"""Every registered backend and variant keeps the contract: a new row is tested by being registered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from minitrans.attention.online_softmax import OnlineSoftmaxAttention
from minitrans.attention.registry import BACKENDS, VARIANTS, load
from minitrans.testing import check_attention, subject
from minitrans.testing.cases import CASES
from tests.attention.support import CANNOT


@pytest.mark.parametrize("name", BACKENDS)
def test_backend(name: str) -> None:
    report = check_attention(name)
    assert len(report.passed) > 100


PAIRS = {"differential": 4, "differential_v1": 4}  # heads that come in pairs


def trial(name: str) -> dict[str, Any]:
    return {"name": name, **load(VARIANTS[name]).trial}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks around softmax attention on the oracle and our kernels; on all of them in the slow test."""
    monkeypatch.setattr(subject, "BACKENDS", ["eager", "triton"])
    lines: list[str] = []
    report = check_attention(
        trial(name), heads=PAIRS.get(name), dtypes=(torch.float64, torch.bfloat16), progress=lines.append
    )
    assert len(report.passed) > 20
    assert len(lines) in (1, 2)
    assert {form for form, reason in report.support.items() if reason} == CANNOT.get(name, set())
    assert "not checked" not in report.support.values()


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_everywhere(name: str) -> None:
    lines: list[str] = []
    assert len(check_attention(trial(name), heads=PAIRS.get(name), progress=lines.append).passed) > 20
    assert len(lines) in (1, len(BACKENDS))


def test_other_options_and_lists() -> None:
    for spec in ({"name": "rotary", "layout": "interleaved"}, {"name": "sink", "learned": False, "initial": 1.0}):
        assert check_attention(spec, dtypes=(torch.float64,)).passed
    report = check_attention(["rotary", "qk_norm", "talking_heads"], dtypes=(torch.float64,))
    assert "rotary + qk_norm + talking_heads, in a block, gradients" in report.passed


@pytest.mark.parametrize("tiles", [(1, 1), (2, 3), (5, 2)])
def test_online_softmax_in_tiles_smaller_than_the_sequences(tiles: tuple[int, int]) -> None:
    assert check_attention(OnlineSoftmaxAttention(query_tile=tiles[0], key_tile=tiles[1])).refused == ()


def test_only_what_is_said_to_be_unsupported_is_refused() -> None:
    for name in ("eager", "online_softmax"):
        assert check_attention(name).refused == ()
    refused = check_attention("sdpa", dtypes=(torch.float64,)).refused
    assert {name.rsplit(": ", 1)[1] for name in refused} == {"softcap", "the logsumexp"}
    refused = check_attention("flex", dtypes=(torch.float64,)).refused
    assert {name.removeprefix("flex, ") for name in refused} == {
        "gradient of the query: gradient",
        "gradient of the key: gradient",
        "gradient of the value: gradient",
        "gradient of the bias parameter: gradient",
        "dropout: dropout",
        "dropout, padding: dropout",
        "dropout, ALiBi: dropout",
        "dropout, grouped heads: dropout",
        "dropout, packed: dropout",
    }


def test_the_core_has_every_kind() -> None:
    """Of masks, biases, lengths and heads; what runs on every backend must not shrink unseen."""
    core = [case for case in CASES if case.core]
    masks = [case.mask(case.sizes, lambda *shape: torch.ones(shape, dtype=torch.bool)) for case in core]
    for part in ("key_padding", "window", "global_tokens", "blocks", "rule", "dense"):
        assert any(getattr(mask, part) is not None for mask in masks), part
    assert any(mask.causal for mask in masks)
    assert {case.bias for case in core} >= {"dense", "ALiBi", "buckets", "relative_key_query"}
    lengths = {(case.sizes.queries > case.sizes.keys) - (case.sizes.queries < case.sizes.keys) for case in core}
    assert lengths == {-1, 0, 1}
    assert any(case.sizes.lengths for case in core)
    assert any(case.sizes.groups < case.sizes.heads for case in core)
    assert any(case.softcap for case in core)
    assert any(case.scale for case in core)
    assert len({(case.sizes.heads, case.sizes.width) for case in core}) > 2


def test_report_says_how_much_was_run() -> None:
    report = check_attention("sdpa", dtypes=(torch.float64,))
    assert str(report) == f"{len(report.passed)} checks passed, {len(report.refused)} refused as not supported"


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    check_attention("sdpa", dtypes=(torch.float64,), progress=True)
    line = capsys.readouterr().err
    assert line.startswith("sdpa: ")
    assert line.count("\n") == 1
    lines: list[str] = []
    check_attention({"layers": {"0": "sigmoid", "1-": "eager"}}, dtypes=(torch.float64,), progress=lines.append)
    assert [line.split(":")[0] for line in lines] == ["sigmoid", "eager"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", [*BACKENDS, *VARIANTS])
def test_on_cuda(name: str) -> None:
    check_attention(name if name in BACKENDS else trial(name), device="cuda")
