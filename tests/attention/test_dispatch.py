"""`attend`, `explain_backend`, and every error a wrong call gives."""

from __future__ import annotations

import pytest
import torch

from minitrans.attention import ALiBi, AttentionMask, AttentionRules, PackedLayout, attend, explain_backend
from minitrans.attention.registry import BACKENDS
from minitrans.errors import NotSupportedError

q = torch.randn(2, 6, 5, 8)
kv = torch.randn(2, 3, 7, 8)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="unknown attention backend 'fast'; known: auto, eager, sdpa, flex, online"):
        attend(q, kv, kv, backend="fast")
    with pytest.raises(ValueError, match="unknown attention backend 'fast'"):
        explain_backend(q, kv, backend="fast")


def test_explain_backend() -> None:
    weights = AttentionRules(need_weights=True)
    assert explain_backend(q, kv).name == "sdpa"
    assert "the fastest exact one here" in explain_backend(q, kv).reason
    assert explain_backend(q, kv, weights).name == "eager"
    assert "probabilities" in explain_backend(q, kv, weights).reason
    assert explain_backend(q, kv, backend="flex") == explain_backend(q, kv, weights, backend="flex")
    assert explain_backend(q, kv, backend="flex").reason == "asked for by name; it runs uncompiled, forward only"
    assert explain_backend(q, kv, backend="eager").reason == "asked for by name"


@pytest.mark.parametrize("rules", [AttentionRules(softcap=2.0), AttentionRules(need_logsumexp=True)])
def test_auto_leaves_sdpa_for_what_it_lacks(rules: AttentionRules) -> None:
    choice = explain_backend(q, kv, rules)
    assert choice.name == "eager"
    assert choice.reason == "torch's fused attention has no softcap and gives no logsumexp"
    found, expected = (attend(q, kv, kv, rules, backend=backend) for backend in ("auto", "eager"))
    assert torch.equal(found.output, expected.output)
    assert found.logsumexp is not None


def test_unsupported_options_are_refused_before_running() -> None:
    dropout = AttentionRules(dropout_p=0.1)
    with pytest.raises(
        NotSupportedError, match="'flex' does not support dropout; supported by: eager, online_softmax, sdpa"
    ):
        attend(q, kv, kv, dropout, backend="flex")
    with pytest.raises(NotSupportedError, match="'flex' does not support dropout"):
        explain_backend(q, kv, dropout, backend="flex")
    for rules, lacking in (
        (AttentionRules(softcap=1.0), "softcap"),
        (AttentionRules(need_logsumexp=True), "the logsumexp"),
    ):
        message = f"'sdpa' does not support {lacking}; supported by: eager, flex, online_softmax, triton"
        with pytest.raises(NotSupportedError, match=message):
            attend(q, kv, kv, rules, backend="sdpa")


def test_flex_has_no_gradient_on_the_cpu() -> None:
    message = "'flex' does not support gradient; supported by: eager, online_softmax, sdpa"
    leaf = q.clone().requires_grad_()
    with pytest.raises(NotSupportedError, match=message):
        attend(leaf, kv, kv, backend="flex")
    with pytest.raises(
        NotSupportedError, match="'flex' does not support gradient on the CPU; supported by: eager, sdpa"
    ):
        attend(q, kv, kv.clone().requires_grad_(), backend="flex")
    with pytest.raises(NotSupportedError, match=message):
        attend(q, kv, kv, AttentionRules(bias=ALiBi(torch.rand(6, requires_grad=True))), backend="flex")
    with torch.no_grad():
        assert attend(leaf, kv, kv, backend="flex").output.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_on_every_backend_are_the_oracles(backend: str) -> None:
    mask = AttentionMask(causal=True, key_padding=torch.tensor([[True] * 7, [False] * 7]))
    expected = attend(q, kv, kv, AttentionRules(mask, need_weights=True), backend="eager")
    found = attend(q, kv, kv, AttentionRules(mask, need_weights=True), backend=backend)
    assert expected.weights is not None
    assert found.weights is not None
    torch.testing.assert_close(found.weights, expected.weights)
    torch.testing.assert_close(found.output, expected.output)
    assert (found.weights[1] == 0).all()
    assert attend(q, kv, kv, AttentionRules(mask), backend=backend).weights is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_in_low_precision_keep_the_dtype(backend: str) -> None:
    low = q.bfloat16()
    weights = attend(low, low, low, AttentionRules(need_weights=True), backend=backend).weights
    assert weights is not None
    assert weights.dtype == torch.bfloat16
    torch.testing.assert_close(weights.float().sum(-1), torch.ones(2, 6, 5), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((q[0], kv, kv), ValueError, r"query must be \(B, H, T, K\), got shape \(6, 5, 8\)"),
        ((q, kv[0], kv[0]), ValueError, r"key must be \(B, H, T, K\), got shape \(3, 7, 8\)"),
        ((q, kv.double(), kv), TypeError, "key is torch.float64 on cpu, query is torch.float32 on cpu"),
        ((q, kv, kv.bfloat16()), TypeError, "value is torch.bfloat16 on cpu, query is torch.float32"),
        ((q, kv, kv[:, :, :5]), ValueError, "key and value must have the same shape"),
        ((q, kv[..., :4], kv[..., :4]), ValueError, "the same head width, got 8 and 4"),
        ((q[:, :5], kv, kv), ValueError, "key/value heads must divide query heads, got 3 and 5"),
        ((q[:1], kv, kv), ValueError, "the same batch size, got 1 and 2"),
        ((q, kv[:, :0], kv[:, :0]), ValueError, "key/value heads must divide query heads, got 0 and 6"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    arguments: tuple[torch.Tensor, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        attend(*arguments)


def test_masks_and_layouts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"key_padding must be \(B, S\) = \(2, 7\), got \(2, 5\)"):
        attend(q, kv, kv, AttentionRules(AttentionMask(key_padding=torch.ones(2, 5, dtype=torch.bool))))
    layout = PackedLayout.from_lengths([2, 3])
    x = torch.randn(5, 6, 8)
    with pytest.raises(ValueError, match=r"query must be \(N, H, K\), got shape \(2, 6, 5, 8\)"):
        attend(q, kv, kv, AttentionRules(layout=layout))
    with pytest.raises(ValueError, match="a packed batch has one layout: N must agree, got 5 and 4"):
        attend(x, x[:4], x[:4], AttentionRules(layout=layout))
    padding = AttentionMask(key_padding=torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="a packed batch has no padding"):
        attend(x, x, x, AttentionRules(padding, layout=layout))


@pytest.mark.parametrize("dropout_p", [-0.1, 1.0])
def test_dropout_must_be_a_probability_below_one(dropout_p: float) -> None:
    with pytest.raises(ValueError, match=r"dropout_p must be in \[0, 1\)"):
        attend(q, kv, kv, AttentionRules(dropout_p=dropout_p))
