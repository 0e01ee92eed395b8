"""The backend `triton` where Triton cannot run: the same contract; what `auto` means on CUDA, and what is said of it."""

from __future__ import annotations

from typing import Any

import minitrans_kernels
import pytest
import torch
from minitrans.attention.choice import choose
from minitrans_kernels import runtime

from minitrans.attention import (
    ALiBi,
    AttentionMask,
    DenseBias,
    PackedLayout,
    RelativeBuckets,
    RelativePositions,
    attend,
    explain_backend,
    registry,
)
from minitrans.attention.bias import SummedBias
from minitrans.errors import NotSupportedError
from minitrans.testing import check_attention

q = torch.randn(2, 6, 5, 16)
kv = torch.randn(2, 3, 7, 16)
padding = torch.ones(2, 7, dtype=torch.bool)


def test_it_keeps_the_contract():
    report = check_attention("triton")
    assert report.refused == ()


class OnCuda:
    """What `choose` looks at of a query."""

    device = torch.device("cuda")

    def __init__(self, width: int = 64) -> None:
        self.shape = torch.Size((2, 6, 5, width))
        self.is_cuda = True


@pytest.fixture
def usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_usable", lambda: True)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize(
    ("used", "backend", "reason"),
    [
        (set(), "sdpa", "takes this in one kernel"),
        ({"causal", "gradient", "dropout"}, "sdpa", "takes this in one kernel"),
        ({"bias"}, "sdpa", "takes this in one kernel"),
        ({"global_tokens"}, "sdpa", "takes this in one kernel"),
        ({"packed", "low_precision", "gradient"}, "triton", "once per length of sequence, our kernels once"),
        ({"key_padding"}, "triton", "would compute the padding too"),
        ({"key_padding", "window", "global_tokens"}, "triton", "only tiles inside the window"),
        ({"blocks"}, "triton", "only tiles with allowed blocks"),
        ({"bias", "gradient"}, "triton", "a bias gradient for every sample"),
        ({"key_padding", "dense_mask"}, "sdpa", "reads a dense mask as it is"),
        ({"key_padding", "float64"}, "sdpa", "for float32 and below"),
    ],
)
def test_auto_on_cuda(used: set[str], backend: str, reason: str):
    choice = choose(used, OnCuda(), False)
    assert choice.name == backend
    assert reason in choice.reason
    assert "fast" not in choice.reason, "nothing of this was timed"


@pytest.mark.usefixtures("usable")
def test_auto_on_cuda_knows_the_widest_head():
    assert choose({"packed"}, OnCuda(256), False).name == "triton"
    assert choose({"packed"}, OnCuda(257), False).name == "sdpa"
    assert choose({"packed"}, OnCuda(), True).name == "eager"


def test_auto_on_cuda_without_triton(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "_usable", lambda: False)
    choice = choose({"packed"}, OnCuda(), False)
    assert choice.name == "sdpa"
    assert "our kernels cannot run here" in choice.reason


def test_auto_on_the_cpu_is_as_it_was():
    assert explain_backend(q, kv, mask=AttentionMask(key_padding=padding)).name == "sdpa"
    assert "the fastest exact one here for cpu tensors" in explain_backend(q, kv).reason


def test_explain_says_what_runs(monkeypatch: pytest.MonkeyPatch):
    choice = explain_backend(q, kv, backend="triton")
    assert choice.name == "triton"
    assert (
        choice.reason == "asked for by name; it runs the PyTorch path, because Triton does not compute on cpu tensors"
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert explain_backend(q, kv, backend="triton").reason == "asked for by name; it runs Triton kernels, interpreted"
    with pytest.raises(NotSupportedError, match="'triton' does not support float64"):
        explain_backend(q.double(), kv.double(), backend="triton")


def test_heads_too_wide():
    wide = torch.randn(1, 1, 3, 257)
    with pytest.raises(
        NotSupportedError, match="'triton' does not support head widths above 256, got 257; supported by: eager"
    ):
        attend(wide, wide, wide, backend="triton")


def test_a_dense_mask_forbids_however_large_the_scores():
    allowed = torch.ones(1, 1, 5, 7, dtype=torch.bool)
    allowed[..., 3:] = False
    allowed[..., 0, :] = False
    huge = kv.clone()
    huge[:, :, 3:] = 1e4
    found, expected = (
        attend(q, huge, kv, mask=AttentionMask(dense=allowed), bias=DenseBias(torch.ones(1, 1, 5, 7)), backend=backend)
        for backend in ("triton", "eager")
    )
    torch.testing.assert_close(found.output, expected.output)
    assert (found.output[:, :, 0] == 0).all()
    assert found.logsumexp is not None
    assert (found.logsumexp[:, :, 0] == -torch.inf).all()


@pytest.mark.parametrize("packed", [False, True])
def test_summed_biases(packed: bool):
    """Of each kind there may be several: slopes are summed, the second table of buckets becomes scores."""
    x = torch.randn(9, 6, 16, dtype=torch.float64) if packed else torch.randn(2, 6, 9, 16, dtype=torch.float64)
    layout = PackedLayout.from_lengths([4, 0, 5]) if packed else None
    leaves = [
        torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for shape in ((6,), (6,), (8, 6), (8, 6), (1, 6, 9, 9), (21, 16))
    ]
    first, second, table, other, dense, vectors = leaves
    bias: Any = ALiBi(first)
    for part in (
        RelativeBuckets(table),
        ALiBi(second),
        RelativeBuckets(other, False, 9),
        DenseBias(dense),
        RelativePositions(vectors),
    ):
        bias = SummedBias(bias, part)
    found, expected = (attend(x, x, x, bias=bias, layout=layout, backend=backend) for backend in ("triton", "eager"))
    torch.testing.assert_close(found.output, expected.output)
    torch.testing.assert_close(found.logsumexp, expected.logsumexp)
    for ours, theirs in zip(
        *(torch.autograd.grad(r.output.square().sum(), leaves) for r in (found, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("packed", [False, True])
def test_a_packed_batch_is_one_call(packed: bool, monkeypatch: pytest.MonkeyPatch):
    called = []
    for name in ("attention", "attention_varlen"):
        original = getattr(minitrans_kernels, name)
        monkeypatch.setattr(
            minitrans_kernels, name, lambda *a, _f=original, _n=name, **b: (called.append(_n), _f(*a, **b))[1]
        )
    x = torch.randn(9, 6, 16) if packed else q
    attend(x, x, x, layout=PackedLayout.from_lengths([4, 5]) if packed else None, backend="triton")
    assert called == ["attention_varlen" if packed else "attention"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*lru_cache.*:UserWarning")
@pytest.mark.parametrize("backend", ["triton", "sdpa", "auto"])
def test_one_graph(monkeypatch: pytest.MonkeyPatch, backend: str):
    """Also where the compiler is the first to want the backend."""
    monkeypatch.setattr(registry, "_LOADED", {})
    torch.compiler.reset()
    query, table = torch.randn(2, 3, 7, 16, requires_grad=True), torch.randn(32, 3, requires_grad=True)

    def step(query: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        mask = AttentionMask(key_padding=padding, causal=True)
        result = attend(query, query, query, mask=mask, bias=RelativeBuckets(table, True, 128), backend=backend)
        return result.output.square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    found, expected = (torch.autograd.grad(function(query, table), (query, table)) for function in (compiled, step))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*lru_cache.*:UserWarning")
def test_one_graph_of_a_packed_batch():
    torch.compiler.reset()
    layout = PackedLayout.from_lengths([3, 0, 5])
    query = torch.randn(8, 3, 16, requires_grad=True)

    def step(query: torch.Tensor) -> torch.Tensor:
        mask = AttentionMask(window=(1, 2))
        return attend(query, query, query, mask=mask, layout=layout, backend="triton").output.square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    (found,), (expected,) = (torch.autograd.grad(function(query), query) for function in (compiled, step))
    torch.testing.assert_close(found, expected)
