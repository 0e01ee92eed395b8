"""The backend `triton` where Triton cannot run: the same contract; what `auto` means on CUDA, and what is said of it."""

from __future__ import annotations

from typing import Any

import minitrans_kernels
import pytest
import torch
from minitrans_kernels import runtime
from torch._subclasses.fake_tensor import FakeTensorMode

from minitrans.attention import (
    ALiBi,
    AttentionMask,
    AttentionRules,
    BlockLayout,
    DenseBias,
    MaskRule,
    PackedLayout,
    RelativeBuckets,
    RelativePositions,
    attend,
    dispatch,
    explain_backend,
)
from minitrans.attention.backend_selection import select_backend
from minitrans.attention.bias import SummedBias
from minitrans.errors import NotSupportedError
from minitrans.testing import check_attention

q = torch.randn(2, 6, 5, 16)
kv = torch.randn(2, 3, 7, 16)
padding = torch.ones(2, 7, dtype=torch.bool)


def test_it_keeps_the_contract():
    report = check_attention("triton")
    assert report.refused == ()


def on_cuda(width: int = 64, dtype: torch.dtype = torch.float32, *, trains: bool = False) -> torch.Tensor:
    """A tensor that says it is on a GPU and holds nothing."""
    with FakeTensorMode():
        return torch.empty(2, 6, 5, width, device="cuda", dtype=dtype, requires_grad=trains)


@pytest.fixture
def usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_usable", lambda: True)


def selected(query: Any, rules: AttentionRules) -> Any:
    return select_backend(rules, query, query)


ONES = torch.ones(2, 7, dtype=torch.bool)
PACKED = AttentionRules(layout=PackedLayout.from_lengths([4, 5]))
PADDED = AttentionRules(AttentionMask(key_padding=ONES))
BIAS = DenseBias(torch.zeros(1, 1, 5, 7))
DENSE = torch.ones(1, 1, 5, 7, dtype=torch.bool)
BLOCKS = BlockLayout(torch.ones(1, 3, 4, dtype=torch.bool), 2)
RULE = MaskRule(lambda b, h, i, j: i >= j)


@pytest.mark.usefixtures("usable")
@pytest.mark.parametrize(
    ("query", "rules", "backend", "reason"),
    [
        (on_cuda(), AttentionRules(), "sdpa", "takes this in one kernel"),
        (on_cuda(trains=True), AttentionRules(AttentionMask(causal=True), dropout_p=0.1), "sdpa", "takes this in one kernel"),
        (on_cuda(), AttentionRules(bias=BIAS), "sdpa", "takes this in one kernel"),
        (on_cuda(), AttentionRules(AttentionMask(global_tokens=ONES)), "sdpa", "takes this in one kernel"),
        (on_cuda(dtype=torch.bfloat16, trains=True), PACKED, "triton", "once per length of sequence, our kernels once"),
        (on_cuda(), PADDED, "triton", "would compute the padding too"),
        (
            on_cuda(), AttentionRules(AttentionMask(key_padding=ONES, window=(1, 1), global_tokens=ONES)),
            "triton", "only tiles inside the window",
        ),
        (on_cuda(), AttentionRules(AttentionMask(blocks=BLOCKS)), "triton", "only tiles with allowed blocks"),
        (on_cuda(trains=True), AttentionRules(bias=BIAS), "triton", "a bias gradient for every sample"),
        (on_cuda(), AttentionRules(bias=DenseBias(BIAS.values.clone().requires_grad_())), "triton", "a bias gradient"),
        (on_cuda(), AttentionRules(AttentionMask(key_padding=ONES, dense=DENSE)), "sdpa", "reads a dense mask as it is"),
        (on_cuda(), AttentionRules(AttentionMask(key_padding=ONES, rule=RULE)), "sdpa", "reads a dense mask as it is"),
        (on_cuda(dtype=torch.float64), PADDED, "sdpa", "for float32 and below"),
        (on_cuda(), AttentionRules(softcap=3.0), "triton", "our kernels have the softcap"),
        (on_cuda(), AttentionRules(need_logsumexp=True), "triton", "give the logsumexp"),
        (on_cuda(dtype=torch.float64), AttentionRules(softcap=3.0), "eager", "no softcap and gives no logsumexp"),
        (on_cuda(), AttentionRules(AttentionMask(dense=DENSE), need_logsumexp=True), "eager", "gives no logsumexp"),
    ],
)  # fmt: skip
def test_auto_on_cuda(query: Any, rules: AttentionRules, backend: str, reason: str):
    choice = selected(query, rules)
    assert choice.name == backend
    assert reason in choice.reason
    assert "fast" not in choice.reason, "nothing of this was timed"


@pytest.mark.usefixtures("usable")
def test_auto_on_cuda_knows_the_widest_head():
    assert selected(on_cuda(256), PACKED).name == "triton"
    assert selected(on_cuda(257), PACKED).name == "sdpa"
    assert selected(on_cuda(), AttentionRules(layout=PACKED.layout, need_weights=True)).name == "eager"


def test_auto_on_cuda_without_triton(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "_usable", lambda: False)
    choice = selected(on_cuda(), PACKED)
    assert choice.name == "sdpa"
    assert "our kernels cannot run here" in choice.reason
    assert selected(on_cuda(), AttentionRules(softcap=3.0)).name == "eager"


def test_auto_on_the_cpu_is_as_it_was():
    assert explain_backend(q, kv, PADDED).name == "sdpa"
    assert "the fastest exact one here" in explain_backend(q, kv).reason


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
    with pytest.raises(NotSupportedError, match="'triton' does not support head widths above 256; supported by: eager"):
        attend(wide, wide, wide, backend="triton")


def test_a_dense_mask_forbids_however_large_the_scores():
    allowed = torch.ones(1, 1, 5, 7, dtype=torch.bool)
    allowed[..., 3:] = False
    allowed[..., 0, :] = False
    rules = AttentionRules(AttentionMask(dense=allowed), DenseBias(torch.ones(1, 1, 5, 7)))
    huge = kv.clone()
    huge[:, :, 3:] = 1e4
    found, expected = (attend(q, huge, kv, rules, backend=backend) for backend in ("triton", "eager"))
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
    found, expected = (
        attend(x, x, x, AttentionRules(bias=bias, layout=layout), backend=backend) for backend in ("triton", "eager")
    )
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
    attend(x, x, x, PACKED if packed else AttentionRules(), backend="triton")
    assert called == ["attention_varlen" if packed else "attention"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*lru_cache.*:UserWarning")
@pytest.mark.parametrize("backend", ["triton", "sdpa", "auto"])
def test_one_graph(backend: str):
    """Also where the compiler is the first to want the backend."""
    dispatch._LOADED.clear()
    torch.compiler.reset()
    query, table = torch.randn(2, 3, 7, 16, requires_grad=True), torch.randn(32, 3, requires_grad=True)

    def step(query: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        rules = AttentionRules(AttentionMask(key_padding=padding, causal=True), RelativeBuckets(table, True, 128))
        return attend(query, query, query, rules, backend=backend).output.square().sum()

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
        rules = AttentionRules(AttentionMask(window=(1, 2)), layout=layout, softcap=3.0)
        return attend(query, query, query, rules, backend="triton").output.square().sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    (found,), (expected,) = (torch.autograd.grad(function(query), query) for function in (compiled, step))
    torch.testing.assert_close(found, expected)
